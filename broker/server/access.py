"""Who may write and read what, by user name: the rules that `mosquitto.conf` grants in Mosquitto's own syntax.

Here for the embedded broker, which has no such patterns. A client without a user name may do everything, as with
`allow_anonymous true`; so these rules keep programs from mistakes, not strangers from harm.
"""

from typing import TypeAlias

from shared.errors import PeerError
from shared.topics import (
    AggregatorStatusTopic,
    AssignmentTopic,
    CheckInTopic,
    ChunkTopic,
    ControlTopic,
    FleetTopic,
    IndexTopic,
    ModelTopic,
    ReceiptTopic,
    ReportTopic,
    RoundTopic,
    StatusTopic,
    Topic,
    Topics,
)

__all__ = ["may_read", "may_write"]

_Written: TypeAlias = StatusTopic | CheckInTopic | ReportTopic | ChunkTopic
_ReadAlone: TypeAlias = AssignmentTopic | ReceiptTopic | ControlTopic
_ReadByAll: TypeAlias = FleetTopic | AggregatorStatusTopic | RoundTopic | IndexTopic | ModelTopic


def may_write(user: str | None, topic: str) -> bool:
    """Say whether a client may publish on a topic.

    Args:
        user: its user name; None: it gave none. `aggregator` writes everything, `watch` nothing, others are devices.
        topic: without wildcards.
    """
    if user is None or user == "aggregator":
        return True
    parsed = None if user == "watch" else _parse(topic)
    return isinstance(parsed, _Written) and parsed.device == user


def may_read(user: str | None, topic: str) -> bool:
    """Say whether a message on a topic may be delivered to a client.

    Args:
        user: its user name; None: it gave none. `aggregator` and `watch` read everything, others are devices.
        topic: without wildcards.
    """
    if user is None or user in ("aggregator", "watch"):
        return True
    parsed = _parse(topic)
    return isinstance(parsed, _ReadByAll) or (isinstance(parsed, _ReadAlone) and parsed.device == user)


def _parse(topic: str) -> Topic | None:
    try:
        return Topics(topic.split("/")[2]).parse(topic)
    except (IndexError, PeerError):
        return None
