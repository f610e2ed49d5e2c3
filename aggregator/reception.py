"""From a message on the wire to an event for the round machine: what is not believed goes no further.

Every refusal is one `PeerError` with a reason: counted, without effect on the model, and answered where the topic
names a valid lease of that device and the refusal is about its update.

Not here: the checks themselves (`admission.py`, `shared/wire.py`), what is decided (`round_machine.py`).
"""

import math
from collections import Counter
from collections.abc import Callable

import structlog

from aggregator.admission import MessageRates, check_report, lease_for
from aggregator.codec_choice import CodecChoice, sizes_of, usable_of
from aggregator.config import MAX_INLINE_BYTES, Settings
from aggregator.events import CheckedIn, DeviceOffline, Evaluated, Event, Failed, Offered, Progressed, Refused
from aggregator.intake import Intake
from aggregator.leases import Lease, LeaseBook
from aggregator.presence import Presences
from broker.transport import Message
from shared.algorithms import STATEFUL
from shared.codecs import codec_named
from shared.errors import PeerError, Reason
from shared.messages import PROTOCOL_VERSION, CheckIn, DeviceStatus, Report, Reported
from shared.parameters import ParameterSpec
from shared.topics import CheckInTopic, ChunkTopic, ReportTopic, StatusTopic, Topics
from shared.wire import decode, decode_json

__all__ = ["Reception"]

log = structlog.get_logger(__name__)

SUMMED_UP_S = 10.0
"""Between two log lines for one reason: a hostile device writes messages faster than anybody reads lines."""
_OF_ANOTHER_RUN = "of another run of this fleet: its device keeps it, and offers it until that run is served again"
_FAILURES = {
    str(reason): reason for reason in (Reason.NOT_FINITE, Reason.RESULT, Reason.SPEC, Reason.STATE, Reason.PROTOCOL)
}
"""What a device may name instead of the exception that its task raised."""
_ABOUT_THE_UPDATE = frozenset(
    {
        Reason.MALFORMED,
        Reason.VERSION,
        Reason.FIELDS,
        Reason.PAYLOAD_TOO_LARGE,
        Reason.CODEC,
        Reason.LENGTH,
        Reason.SIZE,
        Reason.OFFERS,
    }
)


class Reception:
    """Decodes, checks and routes what devices send.

    Args:
        settings: of the run.
        run: its name.
        topics: of the fleet.
        spec: of the model.
        leases: the engine's book, read only.
        intake: takes believed offers and chunks.
        tell: takes events for the round machine.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        run: str,
        topics: Topics,
        spec: ParameterSpec,
        leases: LeaseBook,
        intake: Intake,
        tell: Callable[[Event], None],
    ) -> None:
        self._run, self._topics, self._spec = run, topics, spec
        self._algorithm = settings.training.algorithm
        self._needs_state = self._algorithm in STATEFUL
        self._leases, self._intake, self._tell = leases, intake, tell
        self._codecs, self._chunk_bytes = CodecChoice(settings, sizes_of(spec)), settings.transfer.chunk_bytes
        self._needs_loss = settings.training.algorithm == "qfedavg"
        self._rates = MessageRates(settings.transfer.messages_per_s)
        self._presences = Presences()
        self.refused: Counter[Reason] = Counter()
        self._told: dict[Reason, tuple[float, int]] = {}  # when a line was written, and how many there were
        self.bytes_up = 0

    def receive(self, message: Message, now: float) -> None:
        """Take one message from a device; never raises for what it contains."""
        lease: Lease | None = None
        try:
            topic = self._topics.parse(message.topic)
            self.bytes_up += len(message.payload)
            match topic:
                case ChunkTopic(device, name, index):
                    lease = lease_for(self._leases, device, name)
                    self._chunk(lease, index, message.payload, now)
                case ReportTopic(device, name):
                    lease = lease_for(self._leases, device, name)
                    self._rates.take(device, now)
                    self._report(lease, message.payload)
                case CheckInTopic(device):
                    self._rates.take(device, now)
                    self._check_in(device, decode(CheckIn, message.payload), now)
                case StatusTopic(device) if message.payload:
                    self._status(device, decode_json(DeviceStatus, message.payload), now)
        except PeerError as error:
            self._refuse(message.topic, error, now)
            if lease is not None and error.reason in _ABOUT_THE_UPDATE:
                self._tell(Refused(lease=lease.record.lease, reason=error.reason, detail=error.detail))

    def leased(self, device: str, lease: str) -> None:
        """A device was given a lease, whose answer is expected."""
        self._rates.leased(device, lease)

    def _refuse(self, topic: str, error: PeerError, now: float) -> None:
        """Count a refusal, and say so: the first of a reason at once, the others summed up."""
        self.refused[error.reason] += 1
        last_at, n_told = self._told.get(error.reason, (-math.inf, 0))
        if now - last_at < SUMMED_UP_S:
            return
        n_new = self.refused[error.reason] - n_told
        self._told[error.reason] = (now, self.refused[error.reason])
        facts = {"topic": topic[:200], "reason": str(error.reason), "detail": error.detail, "times": n_new}
        if error.reason is Reason.UNKNOWN_LEASE:  # an honest device does so, too
            log.info("refused", **facts, perhaps=_OF_ANOTHER_RUN)
        else:
            log.warning("refused", **facts)

    def _chunk(self, lease: Lease, index: int, payload: bytes, now: float) -> None:
        if lease.state.is_final:
            return  # sent before its receipt arrived
        if not self._intake.is_granted(lease.record.lease, index):
            self._rates.take(lease.record.device, now)
        if self._intake.chunk(lease.record.lease, index, payload, now):
            self._tell(Progressed(device=lease.record.device, lease=lease.record.lease))

    def _report(self, lease: Lease, payload: bytes) -> None:
        name, device = lease.record.lease, lease.record.device
        if lease.state.is_final:  # decided: whatever it says now, the answer stays
            self._tell(Offered(device=device, lease=name))
            return
        # not what the settings say now: a device may go by the limit that held before a restart
        report = decode(Report, payload, max_data_bytes=MAX_INLINE_BYTES)
        codec = codec_named(lease.record.codec, self._spec)  # the settings may have changed since it was given
        n_params, needs_loss = self._spec.n_params, self._needs_loss
        check_report(report, lease, run=self._run, codec=codec, n_params=n_params, needs_loss=needs_loss)
        if (report.chunk_bytes or 0) > self._chunk_bytes:  # not final: the limit may have been higher before a restart
            raise PeerError(Reason.CHUNK, f"in chunks of {report.chunk_bytes} bytes, at most {self._chunk_bytes}")
        match report.outcome:
            case Reported.FAILED:
                reason = _FAILURES.get(report.error, Reason.TRAINING)
                log.info("training_failed", device=device, lease=name, reason=str(reason), error=report.error)
                self._tell(Failed(device=device, lease=name, reason=reason, detail=report.error))
            case Reported.EVALUATED:
                self._tell(
                    Evaluated(
                        device=device,
                        lease=name,
                        num_examples=report.num_examples or 1,
                        metrics=tuple(report.metrics.items()),
                    )
                )
            case Reported.TRAINED:
                self._intake.offered(report)
                self._tell(Offered(device=device, lease=name))

    def _check_in(self, device: str, check_in: CheckIn, now: float) -> None:
        if self._presences.is_stale(device, check_in.boot, check_in.connection, now):
            return
        refusal, detail = check_in.refusal, check_in.detail
        if self._presences.is_cloned(device, now):
            refusal, detail = Reason.CLONED_ID, "two devices connect with this id"
        elif PROTOCOL_VERSION not in check_in.protocols:
            refusal, detail = Reason.PROTOCOL, f"speaks {check_in.protocols}, the fleet {PROTOCOL_VERSION}"
        elif (cannot := self._codecs.refusal(check_in.codecs, keeps_state=check_in.keeps_state)) is not None:
            refusal, detail = Reason.CODEC, cannot
        elif refusal is None and check_in.spec != self._spec.own.digest:
            refusal, detail = Reason.SPEC, "its task yields another model"
        elif refusal is None and self._needs_state and not check_in.keeps_state:
            refusal, detail = Reason.STATE, f"it keeps no state, and {self._algorithm} lets each device keep some"
        if refusal is not None:
            log.info("not_eligible", device=device, reason=str(refusal), detail=detail)
        holds = frozenset(held.lease for held in check_in.holds if held.run == self._run)
        self._tell(
            CheckedIn(
                device=device,
                refusal=refusal,
                detail=detail,
                device_class=check_in.device_class,
                codecs=usable_of(check_in.codecs, keeps_state=check_in.keeps_state),
                holds=holds,
                missing=check_in.missing,
            )
        )

    def _status(self, device: str, status: DeviceStatus, now: float) -> None:
        if self._presences.is_stale(device, status.boot, status.connection, now, may_be_will=not status.online):
            return
        presence = self._presences[device]
        if presence.is_online and not status.online:
            is_settled = status.phase == "stopped" and status.lease is None
            self._tell(DeviceOffline(device=device, is_settled=is_settled))
        presence.is_online = status.online
        moved = (status.phase, status.progress)
        if status.online and status.lease is not None and moved != presence.moved:
            self._tell(Progressed(device=device, lease=status.lease, phase=status.phase))
        presence.moved = moved
