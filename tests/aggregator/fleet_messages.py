"""What a fleet says of itself on the broker, as tests of its table and of watching it need it."""

from shared.messages import AggregatorStatus, DeviceStatus
from shared.topics import AggregatorStatusTopic, StatusTopic, Topics
from shared.wire import encode_json

__all__ = ["TOPICS", "a_device", "a_status"]

TOPICS = Topics("demo")


def a_status(phase: str = "reporting", version: int = 2) -> tuple[str, bytes]:
    """Return the message of an aggregator in round 3."""
    status = AggregatorStatus(
        online=True,
        epoch=9,
        instance="i",
        run="digits",
        round=3,
        version=version,
        phase=phase,
        have=4,
        need=10,
        goal=12,
        states={"outstanding": 5, "accepted": 28},
        seconds_left=30.0,
        metrics={"accuracy": 0.3 + version / 10},
    )
    return TOPICS.build(AggregatorStatusTopic()), encode_json(status)


def a_device(name: str, phase: str = "training", progress: float | None = None, **changes: object) -> tuple[str, bytes]:
    """Return the message of a device in round 3."""
    fields = {"online": True, "boot": "b", "connection": 1, "round": 3, "lease": "0" * 32, **changes}
    status = DeviceStatus.model_validate({**fields, "phase": phase, "progress": progress})
    return TOPICS.build(StatusTopic(name)), encode_json(status)
