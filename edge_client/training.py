"""One assignment carried out: the model goes in, a finished report comes out, whatever the task does meanwhile.

`carry_out` runs in the training lane, one at a time in a process. Between it and the loop there is one `Gate`: the
task's `progress`, which measures time, shows how far it is, and lets a cancelled training end at its next batch. What a
task does wrong becomes a failed report with the cause's name, and one log line with the traceback.

Not here: when to train (`participant_machine.py`), keeping the report (`outbox.py`).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

import numpy as np
import structlog
from pydantic import ValidationError

from edge_client.local_state import pack
from edge_client.residual import RESIDUAL, with_residual, without_residual
from edge_client.upload import LEAST_CHUNK_BYTES
from shared.algorithms import STATEFUL, DeviceAlgorithm, algorithm_named, extended
from shared.chunking import sha256_hex
from shared.codecs import codec_named, decode_vector, encode_with_feedback
from shared.errors import ConfigError, PeerError, Reason
from shared.initial_loss import initial_loss_of
from shared.messages import Assignment, Kind, Report, Reported, WireMetric, WorkOrder
from shared.parameters import ParameterSpec, Vector, delta_of
from shared.task import BESIDE_MODEL, PERSONAL, Arrays, Client, Metric, Ratio, Task, TrainingCancelled, Work
from shared.wire import encode

__all__ = ["CarryOut", "Finished", "Gate", "carry_out"]

_KEEP = "let it (keeps_state = true, no --no-state), or keep nothing (no personal, keep_optimizer, Trained.state)"


class Gate:
    """What a task calls after each batch (`shared.task.Progress`).

    Args:
        clock: monotonic seconds of the machine; called in the training lane.
        max_seconds: after which `progress` returns False; None: no limit.
    """

    def __init__(self, clock: Callable[[], float], max_seconds: float | None) -> None:
        self._clock, self._max_seconds = clock, max_seconds
        self._started_at: float | None = None
        self.is_cancelled = False
        self.fraction = 0.0
        """How far it says it is, in [0, 1]; read from the loop."""
        self.when_cancelled: Callable[[], object] = lambda: None
        """Called by `cancel`: for whoever computes elsewhere, and asks no `progress`."""

    def start(self) -> None:
        """The task begins now, which may be long after it was asked for."""
        self._started_at = self._clock()

    @property
    def seconds(self) -> float:
        """Since the task began."""
        return self._clock() - self._started_at if self._started_at is not None else 0.0

    def cancel(self) -> None:
        """Let the next call of the task raise `TrainingCancelled`."""
        self.is_cancelled = True
        self.when_cancelled()

    def __call__(self, steps_done: int, n_steps: int, **metrics: float) -> bool:
        """See `shared.task.Progress`."""
        if self.is_cancelled:
            raise TrainingCancelled
        self.fraction = min(1.0, max(0.0, steps_done / n_steps)) if n_steps else 0.0
        return self._max_seconds is None or self.seconds < self._max_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What is kept of one assignment.

    Args:
        report: of an update, as an offer; how it travels is decided when it is sent.
        payload: the encoded update; empty for an evaluation or a failure.
        state: what the task wants back next time; None when it said nothing about it.
        kept: what the algorithm keeps; None when it keeps nothing.
    """

    report: Report
    payload: bytes = b""
    state: Arrays | None = field(default=None, repr=False)
    kept: Arrays | None = field(default=None, repr=False)


def _nothing_kept(lease: str | None) -> Arrays:
    if lease is not None:
        raise PeerError(Reason.STATE, "this device keeps nothing")
    return {}


def carry_out(
    order: Assignment,
    *,
    task: Task,
    client: Client,
    received: Callable[[], tuple[ParameterSpec, Vector]],
    spec: ParameterSpec,
    state: Callable[[], Arrays],
    gate: Gate,
    kept: Callable[[str | None], Arrays] = _nothing_kept,
    keeps_state: bool = True,
) -> Finished | None:
    """Train or evaluate. Takes as long as it takes.

    Args:
        order: what to do.
        task: the user's.
        client: whose data it is.
        received: reads the model, with its spec, from disk.
        spec: the task's own.
        state: reads what this client returned last and had accepted.
        gate: the task's `progress`.
        kept: reads what the algorithm has kept since the update of a lease (`AlgorithmStates.of`).
        keeps_state: whether this device may keep what the task wants back next time; else a task that does fails.

    Returns:
        None: cancelled, nobody wants a report.
    """
    gate.start()
    try:
        if gate.is_cancelled:
            return None
        theirs, vector = received()
        if theirs.own.digest != spec.digest:
            raise PeerError(Reason.SPEC, spec.difference(theirs.own))
        if order.kind is Kind.EVALUATE:
            finished = _evaluate(order, task, client, partial(spec.unflatten, vector[: spec.n_params]), state(), gate)
        else:
            finished = _train(order, task, client, (theirs, vector), state(), kept, gate, keeps_state=keeps_state)
    except TrainingCancelled:
        if not gate.is_cancelled:  # the task's own idea: without a report the device would wait for ever
            detail = "the task raised TrainingCancelled, and nobody had cancelled it"
            finished = _failed(order, client, gate, Reason.TRAINING, detail, name="TrainingCancelled")
    except PeerError as error:
        finished = _failed(order, client, gate, error.reason, str(error))
    # a user's task may raise anything, even SystemExit: it is reported, and the device lives on
    except (Exception, SystemExit) as error:
        cause = f"{type(error).__name__}: {error}"
        finished = _failed(order, client, gate, Reason.TRAINING, cause, name=type(error).__name__)
    return None if gate.is_cancelled else finished


CarryOut: TypeAlias = Callable[..., Finished | None]
"""What has the arguments of `carry_out`."""


def _train(
    order: Assignment,
    task: Task,
    client: Client,
    received: tuple[ParameterSpec, Vector],
    state: Arrays,
    kept: Callable[[str | None], Arrays],
    gate: Gate,
    *,
    keeps_state: bool,
) -> Finished:
    if order.work is None:
        raise PeerError(Reason.FIELDS, "an assignment to train without work")
    theirs, vector = received
    try:
        codec = codec_named(order.codec, theirs)
    except ConfigError as error:
        raise PeerError(Reason.CODEC, str(error)) from error
    if codec.encoded_bytes(theirs.n_params) > order.max_bytes:
        raise PeerError(Reason.SIZE, f"{codec.encoded_bytes(theirs.n_params)} bytes, {order.max_bytes} are allowed")
    spec, work = theirs.own, order.work
    algorithm = _algorithm_of(order.work, theirs)
    model, auxiliary = vector[: spec.n_params], vector[spec.n_params :]
    before = kept(work.state_of) if work.algorithm in STATEFUL else {}
    state, residual = without_residual(state, theirs.n_params)
    adjustment = algorithm.begin(before, auxiliary, int(spec.is_trainable.sum()))
    correction = adjustment.correction
    trained = task.train(
        spec.unflatten(model),
        Work(
            round_id=order.round,
            seed=work.seed,
            algorithm=work.algorithm,
            epochs=work.epochs,
            max_steps=work.max_steps,
            max_seconds=order.max_seconds,
            batch_size=work.batch_size,
            learning_rate=work.learning_rate,
            options=work.options,
            state=state,
            correction={} if correction is None else spec.named_trainables(correction),
            mu=adjustment.mu,
            progress=gate,
        ),
        client,
    )
    delta = delta_of(trained, model, spec)
    metrics = _to_wire(trained.metrics)
    is_fair = work.algorithm == "qfedavg"
    if is_fair:
        initial_loss_of(metrics, reason=Reason.RESULT)
    if trained.gradient is not None and (correction is not None or adjustment.mu or is_fair):
        raise PeerError(Reason.RESULT, f"{work.algorithm} needs the parameters after training, not a gradient")
    if trained.state and not keeps_state:
        names = ", ".join(map(repr, list(trained.state)[:3]))
        raise PeerError(Reason.STATE, f"the task keeps {names} for the next training, and this device nothing: {_KEEP}")
    try:
        pack(trained.state)
    except TypeError as error:
        raise PeerError(Reason.RESULT, str(error)) from error
    change = algorithm.auxiliary_change(
        delta[spec.is_trainable], auxiliary, n_steps=trained.n_steps, learning_rate=work.learning_rate
    )
    if not np.isfinite(change).all():
        raise PeerError(Reason.NOT_FINITE, f"the change of {work.algorithm}'s state has NaN or Inf")
    whole = np.concatenate([delta, change]) if len(change) else delta
    payload, residual = encode_with_feedback(codec, whole, residual, order.codec_seed)
    after: Arrays | None = None
    if work.algorithm in STATEFUL:
        sent = decode_vector(codec, payload, theirs.n_params)
        after = algorithm.next_kept(before, sent[: spec.n_params][spec.is_trainable], sent[spec.n_params :])
    report = _report(
        order,
        gate,
        outcome=Reported.TRAINED,
        codec=order.codec,
        num_examples=trained.num_examples,
        n_steps=trained.n_steps,
        metrics=metrics,
        size=len(payload),
        sha256=sha256_hex(payload),
        chunk_bytes=LEAST_CHUNK_BYTES,
    )
    return Finished(report=report, payload=payload, state=with_residual(trained.state, residual), kept=after)


def _algorithm_of(work: WorkOrder, theirs: ParameterSpec) -> DeviceAlgorithm:
    """Return the algorithm that an order names.

    Raises:
        PeerError: this program does not know it (`protocol`), or the model does not bring what it needs (`spec`).
    """
    try:
        algorithm = algorithm_named(work.algorithm, mu=work.mu, alpha=work.alpha)
        expected = extended(theirs.own, work.algorithm)
    except ConfigError as error:
        raise PeerError(Reason.PROTOCOL, f"{error}: use the aggregator's version of this program") from error
    if theirs.digest != expected.digest:
        raise PeerError(Reason.SPEC, f"for {work.algorithm}: {expected.difference(theirs)}")
    return algorithm


def _evaluate(
    order: Assignment, task: Task, client: Client, parameters: Callable[[], Arrays], state: Arrays, gate: Gate
) -> Finished:
    """Evaluate the global model, and beside it the client's own, when the client keeps a part of the model to itself.

    The global one is what a client without state would get; a task may change the arrays that it is given.
    """
    state = {name: array for name, array in state.items() if name != RESIDUAL}
    evaluated = task.evaluate(parameters(), client, {})
    if evaluated is None:
        raise PeerError(Reason.DATA, "the task has no data to evaluate on")
    metrics = _to_wire(evaluated.metrics)
    if any(not name.startswith(BESIDE_MODEL) for name in state) and not gate.is_cancelled:
        personal = task.evaluate(parameters(), client, state)
        if personal is not None:
            metrics |= {f"{PERSONAL}{name}": metric for name, metric in _to_wire(personal.metrics).items()}
    return Finished(
        report=_report(order, gate, outcome=Reported.EVALUATED, num_examples=evaluated.num_examples, metrics=metrics)
    )


def _report(order: Assignment, gate: Gate, *, outcome: Reported, **fields: object) -> Report:
    """Return a report of what the task returned.

    Raises:
        PeerError: what it returned does not fit into one (`result`).
    """
    envelope = {"lease": order.lease, "run": order.run, "outcome": outcome, "train_seconds": max(0.0, gate.seconds)}
    try:
        report = Report.model_validate({**envelope, **fields})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise PeerError(Reason.RESULT, f"{where}: {first['msg']}") from error
    if report.metrics and len(encode(report)) > Report.max_message_bytes:
        raise PeerError(Reason.RESULT, f"metrics: too long for a report of {Report.max_message_bytes} bytes")
    return report


def _failed(order: Assignment, client: Client, gate: Gate, reason: Reason, detail: str, *, name: str = "") -> Finished:
    """Log a failure, with its traceback when the task raised, and report its name."""
    structlog.get_logger().error(
        "training_failed",
        device=client.id,
        reason=str(reason),
        round=order.round,
        lease=order.lease,
        cause=detail[:500],
        exc_info=reason is Reason.TRAINING,
    )
    return Finished(
        report=Report(
            lease=order.lease,
            run=order.run,
            outcome=Reported.FAILED,
            error=(name or str(reason))[:256],
            train_seconds=max(0.0, gate.seconds),
        )
    )


def _to_wire(metrics: Mapping[str, Metric]) -> dict[str, WireMetric]:
    """Return what of a task's metrics can travel; the rest is named in the log."""
    wire: dict[str, WireMetric] = {}
    for name, metric in metrics.items():
        numbers = tuple(float(number) for number in metric) if isinstance(metric, Ratio) else (float(metric),)
        if all(math.isfinite(number) for number in numbers):
            wire[name] = (numbers[0], numbers[1]) if len(numbers) == 2 else numbers[0]
        else:
            structlog.get_logger().warning("metric_not_finite", metric=name)
    return wire
