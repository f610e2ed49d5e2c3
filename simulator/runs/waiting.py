"""What a run waits for, in words: from the aggregator's own status, for whoever looks at a fleet that does not move.

Pure. Not here: how the status is shown to an operator (`aggregator/fleet_table.py`).
"""

from aggregator.phases import Phase
from shared.messages import AggregatorStatus

__all__ = ["waits_for", "why_nobody_starts"]


def waits_for(status: AggregatorStatus | None) -> str:
    """Return what a run waits for.

    Args:
        status: the last one; None: the aggregator has not said a word.
    """
    if status is None or not status.online:
        return "the aggregator"
    if status.phase == Phase.WAITING:
        return f"devices, {status.have} of {status.need} are at hand" + "".join(f"; {why}" for why in _words(status))
    if status.phase == Phase.REPORTING:
        return f"reports of round {status.round}, {status.have} of {status.goal} count, {status.need} are a quorum"
    return f"the end of {status.phase}" + "".join(f"; {why}" for why in _words(status))


def why_nobody_starts(status: AggregatorStatus) -> str | None:
    """Return why a round does not begin though devices are there; None: it may, or nothing is known."""
    if status.phase != Phase.WAITING or status.have >= status.need:
        return None
    return ", ".join(_words(status)) or None


def _words(status: AggregatorStatus) -> list[str]:
    return [cause.replace("_", " ") for cause in status.causes if cause != "waiting_for_devices"]
