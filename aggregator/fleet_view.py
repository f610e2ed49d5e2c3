"""What a subscriber can know of a run: the aggregator's status and each device's, put together.

Pure: it is told what arrived and when, and answers what changed, in words for people. It believes no status further
than showing it, and shows no character that could steer a terminal.

Not here: connecting and drawing (`watch.py`).
"""

from collections import deque
from enum import StrEnum

from shared.errors import PeerError
from shared.messages import AggregatorStatus, DeviceStatus, for_people
from shared.topics import AggregatorStatusTopic, StatusTopic, Topics
from shared.wire import decode_json

__all__ = ["DeviceState", "FleetView"]

TREND_VERSIONS = 400
"""Values of a metric that are kept for its curve."""
_UPLOADING = "reporting"


class DeviceState(StrEnum):
    """What a device does, as a row shows it; the order is that of a crowded table."""

    UPLOADING = "uploading"
    TRAINING = "training"
    FETCHING = "fetching"
    LATE = "late"
    REFUSED = "refused"
    GONE = "gone"
    IDLE = "idle"


class FleetView:
    """One fleet as it appears on the broker.

    Args:
        topics: of the fleet.
    """

    def __init__(self, topics: Topics) -> None:
        self.topics = topics
        self.run: AggregatorStatus | None = None
        """The last status that an aggregator which is there has sent."""
        self.is_served = False
        self.devices: dict[str, DeviceStatus] = {}
        self.trends: dict[str, deque[float]] = {}
        self._seen_at = 0.0

    @property
    def is_finished(self) -> bool:
        """Whether the run has ended."""
        return self.run is not None and self.run.phase == "finished"

    def seconds_left(self, now: float) -> float | None:
        """Return what is left of the reporting window, counted on since the last status."""
        if self.run is None or self.run.seconds_left is None or not self.is_served:
            return None
        return max(0.0, self.run.seconds_left - (now - self._seen_at))

    def state(self, device: str) -> DeviceState:
        """Return what a device does."""
        status = self.devices[device]
        if not status.online:
            return DeviceState.GONE
        is_busy = status.lease is not None
        if is_busy and self.run is not None and status.round is not None and status.round < self.run.round:
            return DeviceState.LATE
        if is_busy and status.phase == _UPLOADING:
            return DeviceState.UPLOADING
        if is_busy and status.phase in (DeviceState.TRAINING, DeviceState.FETCHING):
            return DeviceState(status.phase)
        return DeviceState.REFUSED if status.refusal is not None else DeviceState.IDLE

    def note(self, device: str) -> str:
        """Return why a device does not take part, "" when it does."""
        status = self.devices[device]
        if status.refusal is None:
            return status.detail
        return f"{status.refusal}: {status.detail}" if status.detail else str(status.refusal)

    def saw(self, topic: str, payload: bytes, now: float) -> list[str]:
        """Take a message in.

        Args:
            topic: any.
            payload: as it arrived; what cannot be read changes nothing.
            now: seconds.

        Returns:
            What changed for people, a line each; most messages change nothing that is worth one.
        """
        try:
            match self.topics.parse(topic):
                case AggregatorStatusTopic():
                    return self._aggregator(decode_json(AggregatorStatus, payload), now) if payload else []
                case StatusTopic(device):
                    return self._device(device, decode_json(DeviceStatus, payload) if payload else None)
        except PeerError:
            pass
        return []

    def _aggregator(self, status: AggregatorStatus, now: float) -> list[str]:
        was_served, before = self.is_served, self.run
        self.is_served = status.online
        if not status.online and status.phase != "finished":  # a will says nothing of the run: what was known stays
            if before is None or was_served:
                return [f"aggregator of run {status.run} is gone"]
            return []
        self.run, self._seen_at = status, now
        lines = []
        if before is None or not was_served or before.run != status.run:
            lines.append(f"run {status.run} at version {status.version}, epoch {status.epoch}")
        if before is None or before.run != status.run:
            self.trends.clear()
            before = None
        if status.metrics and (before is None or (before.version, before.metrics) != (status.version, status.metrics)):
            for name, value in status.metrics.items():
                self.trends.setdefault(for_people(name), deque(maxlen=TREND_VERSIONS)).append(value)
            values = " ".join(f"{for_people(name)}={value:.4g}" for name, value in status.metrics.items())
            lines.append(f"version {status.version}: {values}")
        is_new = before is None or (before.round, before.phase, before.causes) != (
            status.round,
            status.phase,
            status.causes,
        )
        if is_new:
            lines.append(self._phase(status))
        return lines

    def _phase(self, status: AggregatorStatus) -> str:
        match status.phase:
            case "waiting":
                rest = f": have={status.have} need={status.need}"
                rest += "".join(f", {for_people(each)}" for each in status.causes if each != "waiting_for_devices")
            case "reporting":
                left = "" if status.seconds_left is None else f", {status.seconds_left:.0f} s left"
                rest = f": {status.have} of {status.goal} reports, quorum {status.need}{left}"
            case "finished":
                counts = " ".join(f"{for_people(name)}={n}" for name, n in status.states.items() if n)
                rest = f": {counts}"
            case _:
                rest = "".join(f": {cause}" for cause in status.causes)
        return f"round {status.round} {for_people(status.phase)}{rest}"

    def _device(self, device: str, status: DeviceStatus | None) -> list[str]:
        before = self.devices.get(device)
        if status is None:
            self.devices.pop(device, None)
            return []
        if before is not None and before.online and not status.online:
            is_newest = status.boot == before.boot and status.connection >= before.connection
            if not is_newest:  # the will of an older connection came late
                return []
        self.devices[device] = status
        if before is not None and before.online != status.online:
            return [f"{device} is {'back' if status.online else 'gone'}"]
        if before is None and not status.online:
            return []
        if (before.refusal if before else None) != status.refusal:
            return [f"{device} refuses: {self.note(device)}" if status.refusal else f"{device} takes part"]
        return []
