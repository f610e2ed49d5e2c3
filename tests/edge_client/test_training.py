from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import structlog

from edge_client.training import Finished, Gate, carry_out
from shared.chunking import sha256_hex
from shared.messages import Kind, Reported
from shared.parameters import ParameterSpec, Vector
from shared.task import (
    BESIDE_MODEL,
    Arrays,
    Client,
    ClientId,
    Evaluated,
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
    **changes: Any,
) -> Finished | None:
    """Carry an assignment out on a model of zeros."""
    own = ParameterSpec.of(task.initial_parameters(0))

    def received() -> tuple[ParameterSpec, Vector]:
        theirs = spec or own
        return theirs, np.zeros(theirs.n_params, np.float32)

    order = an_order(kind=changes.pop("kind", Kind.TRAIN)).model_copy(update=changes)
    return carry_out(
        order,
        task=task,
        client=CLIENT,
        received=received,
        spec=own,
        state=lambda: state or {},
        gate=gate or Gate(lambda: 0.0, order.max_seconds),
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
