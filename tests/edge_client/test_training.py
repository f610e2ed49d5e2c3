from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import structlog

from edge_client.residual import RESIDUAL
from edge_client.training import Finished, Gate, carry_out
from shared.algorithms import extended
from shared.chunking import sha256_hex
from shared.codecs import codec_named, decode_vector
from shared.errors import PeerError, Reason
from shared.messages import Kind, Reported, WorkOrder
from shared.parameters import ParameterSpec, Vector
from shared.task import (
    BESIDE_MODEL,
    Arrays,
    Client,
    ClientId,
    Evaluated,
    Initial,
    Ratio,
    Task,
    Trained,
    TrainingCancelled,
    Work,
)
from tests.edge_client.builders import an_order
from tests.edge_client.tasks import AddOne, Scripted

CLIENT = Client(id=ClientId("pi"))


def carried_out(
    task: Task,
    *,
    gate: Gate | None = None,
    state: Arrays | None = None,
    spec: ParameterSpec | None = None,
    kept: Mapping[str | None, Arrays] = MappingProxyType({None: {}}),
    auxiliary: float = 0.0,
    **changes: Any,
) -> Finished | None:
    """Carry an assignment out on a model of zeros; `auxiliary` is what travels behind it."""
    own = ParameterSpec.of(task.initial_parameters(0))

    def received() -> tuple[ParameterSpec, Vector]:
        theirs = spec or own
        model, more = np.zeros(theirs.own.n_params), np.full(theirs.n_params - theirs.own.n_params, auxiliary)
        return theirs, np.concatenate([model, more]).astype(np.float32)

    order = an_order(kind=changes.pop("kind", Kind.TRAIN)).model_copy(update=changes)
    return carry_out(
        order,
        task=task,
        client=CLIENT,
        received=received,
        spec=own,
        state=lambda: state or {},
        gate=gate or Gate(lambda: 0.0, order.max_seconds),
        kept=kept.__getitem__,
    )


def finished(task: Task, **changes: Any) -> Finished:
    """Carry out what is not cancelled."""
    found = carried_out(task, **changes)
    assert found is not None
    return found


def scripted(script: Callable[[Arrays, Work], Any]) -> Scripted:
    """A task of three parameters whose training is a function."""
    return Scripted(n_params=3, script=script)


def trained(w: Any = (1.0, 1.0, 1.0), **changes: Any) -> Trained:
    """A result."""
    fields: dict[str, Any] = {"parameters": {"w": np.asarray(w, np.float32)}, "num_examples": 1, "n_steps": 1}
    return Trained(**{**fields, **changes})


def test_training_gives_a_delta_in_the_codec_asked_for() -> None:
    """Trained minus received, encoded, with its size and digest."""
    done = finished(AddOne(n_params=3), codec="float16")
    assert done.payload == np.ones(3, "<f2").tobytes()
    report = done.report
    assert (report.outcome, report.codec, report.num_examples, report.n_steps) == (Reported.TRAINED, "float16", 7, 10)
    assert (report.size, report.sha256) == (6, sha256_hex(done.payload))
    assert report.metrics == {"loss": 0.5}


def test_a_codec_with_feedback_sends_what_it_had_left_out() -> None:
    """By hand: 101 ones and what was left out before; two arrive, the rest is kept beside the task's own state."""
    left_out = np.zeros(101, np.float32)
    left_out[[7, 100]] = [4, -6]
    task = AddOne(n_params=101, state=True)
    done = finished(task, codec="top-1-percent", state={"count": np.array(1.0), RESIDUAL: left_out})
    sent = decode_vector(codec_named("top-1-percent"), done.payload, 101)
    assert {int(place): float(sent[place]) for place in np.flatnonzero(sent)} == {7: 5, 100: -5}
    assert done.state is not None
    assert done.state["count"] == 2
    assert (done.state[RESIDUAL] == 1 - np.isin(np.arange(101), [7, 100])).all()
    assert [dict(work.state) for work in task.seen] == [{"count": 1}]


def test_task_is_given_the_work_order() -> None:
    """Seed, epochs, rate, options and the state of the last accepted round arrive as they are."""
    task = AddOne(state=True)
    finished(task, state={"count": np.array(4.0)}, max_seconds=9.0)
    (work,) = task.seen
    assert (work.seed, work.epochs, work.learning_rate, work.round_id, work.max_seconds) == (1, 1, 0.1, 1, 9.0)
    assert work.state == {"count": 4.0}
    assert task.clients == [CLIENT]


def test_evaluation_reports_metrics_and_no_update() -> None:
    """An evaluation is a report without bytes."""
    done = finished(AddOne(), kind=Kind.EVALUATE)
    assert done.payload == b""
    assert (done.report.outcome, done.report.metrics) == (Reported.EVALUATED, {"accuracy": (2.0, 4.0)})


FAILURES: list[tuple[str, Callable[[Arrays, Work], Any], str]] = [
    ("raises", lambda p, w: 1 / 0, "ZeroDivisionError"),
    ("exits", lambda p, w: exit(1), "SystemExit"),
    ("nan", lambda p, w: trained((1.0, np.nan, 1.0)), "not_finite"),
    ("inf", lambda p, w: trained((1.0, np.inf, 1.0)), "not_finite"),
    ("shape", lambda p, w: trained((1.0, 1.0)), "result"),
    ("name", lambda p, w: trained(parameters={"v": np.zeros(3, np.float32)}), "result"),
    ("neither", lambda p, w: trained(parameters=None), "result"),
    ("both", lambda p, w: trained(gradient={"w": np.zeros(3, np.float32)}), "result"),
    ("none", lambda p, w: None, "result"),
    ("examples", lambda p, w: trained(num_examples=0), "result"),
    ("bool", lambda p, w: trained(num_examples=True), "result"),
    ("huge", lambda p, w: trained(num_examples=2**63), "result"),
    ("steps", lambda p, w: trained(n_steps=-1), "result"),
    ("state", lambda p, w: trained(state={"s": np.array([object()])}), "result"),
    ("metrics", lambda p, w: trained(metrics={f"{i:064}": 0.5 for i in range(64)}), "result"),
    ("metric", lambda p, w: trained(metrics={"loss": "low"}), "ValueError"),
]


@pytest.mark.parametrize(("script", "error"), [pytest.param(s, e, id=name) for name, s, e in FAILURES])
def test_bad_result_is_a_failed_report_that_names_its_cause(script: Callable[[Arrays, Work], Any], error: str) -> None:
    """What a task does wrong fails one lease and is said once in the log; the device lives on."""
    with structlog.testing.capture_logs() as logs:
        done = finished(scripted(script))
    assert (done.report.outcome, done.report.error, done.payload) == (Reported.FAILED, error, b"")
    (line,) = logs
    assert (line["event"], line["device"], line["lease"]) == ("training_failed", "pi", done.report.lease)


def test_log_of_an_exception_has_its_traceback() -> None:
    """Whoever wrote the task finds the line that raised."""
    with structlog.testing.capture_logs() as logs:
        finished(scripted(lambda p, w: 1 / 0))
    assert logs[0]["exc_info"] is True
    assert logs[0]["cause"] == "ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"codec": "morse"}, "codec"),
        ({"max_bytes": 11}, "size"),
        ({"work": None}, "fields"),
        ({"spec": ParameterSpec.of(AddOne(4).initial_parameters(0))}, "spec"),
    ],
)
def test_assignment_that_cannot_be_done_fails_before_training(changes: dict[str, Any], error: str) -> None:
    """An unknown codec, too little room or another model costs no training."""

    def never(parameters: Arrays, work: Work) -> Trained:
        raise AssertionError

    assert finished(scripted(never), **changes).report.error == error


def test_device_without_data_fails_its_evaluation() -> None:
    """A task that returns None has nothing to evaluate on."""
    assert finished(scripted(lambda p, w: trained()), kind=Kind.EVALUATE).report.error == "data"


def test_metric_that_is_not_finite_stays_here() -> None:
    """A loss of NaN on one client does not cost its update."""
    metrics = {"loss": float("nan"), "accuracy": Ratio(1, 2), "bad": Ratio(float("inf"), 1)}
    assert finished(scripted(lambda p, w: trained(metrics=metrics))).report.metrics == {"accuracy": (1.0, 2.0)}


def test_cancelled_training_ends_at_the_next_batch() -> None:
    """`progress` raises, the task lets it pass, and no report is made."""
    gate, steps = Gate(lambda: 0.0, None), []

    def train(parameters: Arrays, work: Work) -> Trained:
        for step in range(10):
            steps.append(step)
            if step == 3:
                gate.cancel()
            work.progress(step + 1, 10)
        return trained()

    assert carried_out(scripted(train), gate=gate) is None
    assert steps == [0, 1, 2, 3]


def test_task_that_swallows_the_cancellation_reports_nothing() -> None:
    """Nobody wants the result, whatever the task makes of it."""
    gate = Gate(lambda: 0.0, None)

    def train(parameters: Arrays, work: Work) -> Trained:
        gate.cancel()
        with pytest.raises(TrainingCancelled):
            work.progress(1, 1)
        return trained()

    assert carried_out(scripted(train), gate=gate) is None


def test_training_cancelled_before_it_began_does_not_begin() -> None:
    """One that waited for its turn while another trained."""
    gate = Gate(lambda: 0.0, None)
    gate.cancel()
    assert carried_out(AddOne(), gate=gate) is None


def test_time_is_up_after_max_seconds() -> None:
    """`progress` returns False once the seconds since the task began are over, not those in the queue."""
    now = 0.0
    gate = Gate(lambda: now, 10.0)
    now = 100.0
    gate.start()
    now = 109.0
    assert gate(1, 10)
    now = 110.0
    assert not gate(2, 10)


def test_gate_shows_how_far_it_is() -> None:
    """The status says so; nonsense is clamped."""
    gate = Gate(lambda: 0.0, None)
    gate(5, 10)
    assert gate.fraction == 0.5
    gate(20, 10)
    assert gate.fraction == 1.0
    gate(1, 0)
    assert gate.fraction == 0.0


def test_task_that_gives_up_by_itself_is_a_failed_report() -> None:
    """Nobody had cancelled it: whoever waits for a report gets one, and the device goes on."""

    def train(parameters: Arrays, work: Work) -> Trained:
        raise TrainingCancelled

    assert finished(scripted(train)).report.error == "TrainingCancelled"


class Personal(AddOne):
    """Keeps an offset; half of the global model's answers are right, all of the client's own; spoils what it gets."""

    def evaluate(self, parameters: Arrays, client: Client | None, state: Arrays) -> Evaluated | None:
        """Four are right with the offset, and with parameters as they were received."""
        assert not parameters["w"].any()
        parameters["w"][:] = np.nan
        return Evaluated(num_examples=4, metrics={"accuracy": Ratio(4 if "offset" in state else 2, 4)})


def test_evaluation_has_the_clients_own_model_beside_the_global_one() -> None:
    """Both on the same data; the global one is what a client without state gets."""
    offset = np.array(0.5)
    done = finished(Personal(), kind=Kind.EVALUATE, state={"offset": offset, f"{BESIDE_MODEL}m": np.array(1.0)})
    assert done.report.metrics == {"accuracy": (2.0, 4.0), "personal_accuracy": (4.0, 4.0)}


@pytest.mark.parametrize("state", [{}, {f"{BESIDE_MODEL}m": np.array(1.0)}])
def test_evaluation_without_a_model_of_ones_own_is_of_the_global_one_alone(state: Arrays) -> None:
    """What lies beside the model, such as an optimizer's moments, makes no second model."""
    assert finished(Personal(), kind=Kind.EVALUATE, state=state).report.metrics == {"accuracy": (2.0, 4.0)}


def an_order_of(algorithm: str, **fields: Any) -> WorkOrder:
    """Work for one of the algorithms that keep something; K η is 1 for ten steps."""
    return WorkOrder(seed=1, algorithm=algorithm, epochs=1, learning_rate=0.1, **fields)


def test_scaffold_sends_both_changes_and_keeps_its_variate() -> None:
    """C = 3, c_i = 1, Δ = 1, K η = 1: correction 2, Δc = -3 - 1 = -4, and c_i is -3 then."""
    task = AddOne(n_params=2)
    spec = extended(ParameterSpec.of(task.initial_parameters(0)), "scaffold")
    kept: Mapping[str | None, Arrays] = {"a" * 32: {"scaffold/c_i": np.ones(2, np.float32)}}
    work = an_order_of("scaffold", state_of="a" * 32)
    done = finished(task, spec=spec, auxiliary=3.0, kept=kept, work=work)
    assert task.seen[0].correction["w"].tolist() == [2.0, 2.0]
    assert task.seen[0].mu == 0.0
    assert np.frombuffer(done.payload, "<f4").tolist() == [1.0, 1.0, -4.0, -4.0]
    assert done.kept is not None
    assert done.kept["scaffold/c_i"].tolist() == [-3.0, -3.0]
    assert done.state == {}


def test_feddyn_is_corrected_by_what_it_keeps() -> None:
    """G = 1, α = 0.5, Δ = 1: correction -1, pull 0.5, and g is 0.5 then; only the delta travels."""
    task = AddOne(n_params=2)
    kept: Mapping[str | None, Arrays] = {"a" * 32: {"feddyn/g_i": np.ones(2, np.float32)}}
    done = finished(task, kept=kept, work=an_order_of("feddyn", alpha=0.5, state_of="a" * 32))
    assert (task.seen[0].correction["w"].tolist(), task.seen[0].mu) == ([-1.0, -1.0], 0.5)
    assert np.frombuffer(done.payload, "<f4").tolist() == [1.0, 1.0]
    assert done.kept is not None
    assert done.kept["feddyn/g_i"].tolist() == [0.5, 0.5]


def test_fedprox_is_a_pull_and_keeps_nothing() -> None:
    """The task is told µ; nothing is read from the disk, nothing is kept."""
    task = AddOne()
    done = finished(task, kept={}, work=an_order_of("fedprox", mu=0.25))
    assert (dict(task.seen[0].correction), task.seen[0].mu, done.kept) == ({}, 0.25, None)


@pytest.mark.parametrize("algorithm", ["scaffold", "feddyn"])
def test_what_is_kept_moves_by_what_was_sent(algorithm: str) -> None:
    """A codec rounds: both sides go by the rounded values, or they drift apart round by round."""
    rng = np.random.default_rng(3)
    task = scripted(lambda parameters, work: trained(rng.normal(size=3)))
    spec = extended(ParameterSpec.of(task.initial_parameters(0)), algorithm)
    done = finished(task, spec=spec, auxiliary=0.3, work=an_order_of(algorithm, alpha=0.5), codec="float16")
    sent = np.frombuffer(done.payload, "<f2").astype(np.float32)
    assert done.kept is not None
    (after,) = done.kept.values()
    assert np.array_equal(after, sent[3:] if algorithm == "scaffold" else np.float32(-0.5) * sent)


def test_buffers_are_not_corrected() -> None:
    """The correction names trainables alone, and so does what travels behind the model."""
    initial = Initial({"mean": np.zeros(4, np.float32), "w": np.zeros((1, 2))}, buffers=frozenset({"mean"}))

    class Normed(AddOne):
        def initial_parameters(self, seed: int) -> Initial:
            return initial

        def train(self, parameters: Arrays, work: Work, client: Client) -> Trained:
            self.seen.append(work)
            return Trained(parameters={k: v + 1 for k, v in parameters.items()}, num_examples=1, n_steps=10)

    task = Normed()
    spec = extended(ParameterSpec.of(initial), "scaffold")
    done = finished(task, spec=spec, auxiliary=2.0, work=an_order_of("scaffold"))
    assert {name: array.tolist() for name, array in task.seen[0].correction.items()} == {"w": [[2.0, 2.0]]}
    assert np.frombuffer(done.payload, "<f4").tolist() == [1.0] * 6 + [-3.0] * 2


def _lost(lease: str | None) -> Arrays:
    raise PeerError(Reason.STATE, "gone")


@pytest.mark.parametrize(
    ("work", "reason"),
    [
        (an_order_of("fedmagic"), "protocol"),
        (an_order_of("feddyn"), "protocol"),
        (an_order_of("scaffold"), "spec"),
    ],
)
def test_algorithm_that_cannot_be_carried_out_fails_the_lease(work: WorkOrder, reason: str) -> None:
    """An older program must not train something else under that name; nothing is trained."""
    task = AddOne()
    done = finished(task, work=work)
    assert (done.report.outcome, done.report.error, task.seen) == (Reported.FAILED, reason, [])


def test_lost_state_fails_the_lease_by_name() -> None:
    """The aggregator learns of it, and lets the device begin anew."""

    class Lost(dict[str | None, Arrays]):
        def __missing__(self, lease: str | None) -> Arrays:
            return _lost(lease)

    task = AddOne()
    done = finished(task, kept=Lost(), work=an_order_of("feddyn", alpha=0.5, state_of="a" * 32))
    assert (done.report.error, done.kept, task.seen) == ("state", None, [])


@pytest.mark.parametrize("algorithm", ["fedprox", "feddyn"])
def test_gradient_is_no_result_of_a_corrected_training(algorithm: str) -> None:
    """It was corrected nowhere."""
    task = scripted(lambda parameters, work: trained(parameters=None, gradient={"w": np.zeros(3, np.float32)}))
    done = finished(task, work=an_order_of(algorithm, mu=0.5, alpha=0.5))
    assert (done.report.outcome, done.report.error) == (Reported.FAILED, "result")
