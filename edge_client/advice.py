"""What a person can do about an update that did not count, or a device that is turned away: for the log line about it.

Pure. Not here: the causes themselves (`shared/errors.py`), writing the line (`device_work.py`, `service.py`).
"""

from collections.abc import Mapping
from types import MappingProxyType

from shared.errors import Reason

__all__ = ["ADVICE", "TURNED_AWAY", "advice_for", "facts_of_refusal"]

_NOTHING = "nothing: it goes on with new work"
_SAME_VERSION = "use the aggregator's version of this program on the device"

ADVICE: Mapping[Reason, str] = MappingProxyType(
    {
        Reason.PAYLOAD_TOO_LARGE: _SAME_VERSION,
        Reason.MALFORMED: _SAME_VERSION,
        Reason.VERSION: _SAME_VERSION,
        Reason.FIELDS: _SAME_VERSION,
        Reason.SIZE: "raise transfer.max_update_bytes at the aggregator, or make the update smaller",
        Reason.DIGEST: "look at this device's memory and disk: what arrived is not what was trained",
        Reason.LENGTH: "use the same task, with the same model, on the device and at the aggregator",
        Reason.CODEC: _SAME_VERSION,
        Reason.NOT_FINITE: "lower training.learning_rate, or look for bad examples in this device's data",
        Reason.NORM: "look for bad examples in this device's data; if others are refused too, raise server.max_norm",
        Reason.OFFERS: "look at this device's link: the update was begun anew too often",
        Reason.TRAINING: "see the traceback in this log, under training_failed",
        Reason.RESULT: "see under training_failed in this log what the task returned",
        Reason.SPEC: "use the same task, with the same model, on the device and at the aggregator",
        Reason.STATE: "nothing: it begins anew; if it happens again, see that nothing deletes this device's folder, "
        "and that it may keep state (keeps_state) if the task does",
        Reason.PROTOCOL: _SAME_VERSION,
        Reason.DATA: "see whether the task finds data for this client",
        Reason.GOAL_MET: _NOTHING,
        Reason.TOO_STALE: "nothing, if it is rare; else raise round.window_s, or let this device train less",
        Reason.ALREADY_COUNTED: _NOTHING,
        Reason.RUN_FINISHED: "nothing: the run is over",
        Reason.COMMITTED: "nothing, if it is rare; else raise round.window_s, or let this device train less",
        Reason.SUPERSEDED: _NOTHING,
        Reason.MODEL_GONE: "nothing, if it is rare; else this link is too slow for the pace of the run",
    }
)
"""For every reason that a final outcome may have."""


TURNED_AWAY: Mapping[Reason, str] = MappingProxyType(
    {
        Reason.SPEC: "use the task of the run on this device; which parameter differs is said under spec_differs",
        Reason.PROTOCOL: _SAME_VERSION,
        Reason.CODEC: "use the aggregator's version of this program on the device, with what the codec needs, such as "
        "fedmq[zstd]; or let the aggregator set training.codec to one that this device speaks, or to auto",
        Reason.STATE: "let this device keep state (keeps_state), or use an algorithm that needs none: fedavg, fedprox",
        Reason.CLONED_ID: "give each device an id of its own (--id)",
    }
)
"""For every refusal that only a person can lift."""


def advice_for(reason: Reason | None) -> str | None:
    """Return what to do; None: there is nothing to say."""
    return None if reason is None else ADVICE.get(reason)


def facts_of_refusal(reason: Reason, detail: str, next_try: str) -> dict[str, str]:
    """Return the fields of the line about a device that is turned away.

    Args:
        reason: it is turned away for.
        detail: what the aggregator said of it; "" for nothing.
        next_try: when the device asks again by itself, as a person reads it.
    """
    facts = {"reason": str(reason), "detail": detail, "what_to_do": TURNED_AWAY.get(reason, ""), "next_try": next_try}
    return {**{name: value for name, value in facts.items() if value}, "sooner": "a restart asks at once"}
