"""Why a lease or a round ended as it did, in words that a person understands.

Pure. Not here: which facts there are (`explanation.py`).
"""

from collections.abc import Mapping

from aggregator.phases import EndCause
from aggregator.timeline_lines import LeaseLine
from shared.errors import Reason
from shared.messages import Outcome

__all__ = ["lease_cause", "pause_words", "round_cause"]

_DOING = {
    "waiting": "before it began",
    "download": "while it fetched the model",
    "training": "while it trained",
    "upload": "while it uploaded",
}
_WENT_OFFLINE = {
    "waiting": "before it began",
    "download": "while it fetched the model",
    "training": "in training",
    "upload": "in its upload",
}
_REJECTED = {
    Reason.NOT_FINITE: "its update had NaN or infinity in it",
    Reason.NORM: "its update was larger than server.max_norm",
    Reason.DIGEST: "its bytes did not add up to what it had offered",
    Reason.LENGTH: "its update had not the length of this model's",
    Reason.SIZE: "its update had not the size that was offered or allowed",
    Reason.CODEC: "it used another codec than it was given, or used it wrongly",
    Reason.OFFERS: "it offered too many different updates",
}
_FAILED = {
    Reason.TRAINING: "its task raised an error",
    Reason.RESULT: "its task returned what is no result",
    Reason.NOT_FINITE: "its task returned NaN or infinity",
    Reason.SPEC: "its task yields another model",
    Reason.STATE: "it had lost what the algorithm lets it keep, and begins anew, or its task keeps what it may not",
    Reason.PROTOCOL: "its program does not know the algorithm",
}


def lease_cause(
    *,
    outcome: Outcome | None,
    reason: Reason | None,
    detail: str,
    is_lost: bool,
    staleness: int,
    into: int | None,
    version: int,
    line: LeaseLine | None,
) -> str:
    """Return why a lease ended so.

    Args:
        outcome: its final one; None: it is still out.
        reason: of the outcome.
        detail: the device's or the check's own words.
        is_lost: whether nobody had heard of it for too long.
        staleness: of an accepted update.
        into: the version that an accepted update counted for.
        version: the newest committed one when it ended.
        line: what the aggregator saw of it; None: nothing is known.
    """
    own_words = f": {detail}" if detail and detail != reason else ""
    match outcome:
        case None:
            return "still out"
        case Outcome.ACCEPTED:
            late = f", {staleness} version{'s' if staleness > 1 else ''} late" if staleness else ""
            return f"counted for version {into}{late}"
        case Outcome.REJECTED:
            return f"{_REJECTED.get(reason, f'rejected, {reason}') if reason else 'rejected'}{own_words}"
        case Outcome.FAILED:
            return f"{_FAILED.get(reason, f'failed, {reason}') if reason else 'failed'}{own_words}"
        case Outcome.DISCARDED if not is_lost:
            return _discarded(reason, line)
    if is_lost:
        return _lost(reason, version, line)
    doing = "" if line is None else f" {_DOING[line.last]}"
    match reason:
        case Reason.COMMITTED:
            return f"cancelled: version {version} was committed{doing}"
        case Reason.MODEL_GONE:
            return f"cancelled: the version it was to train left the broker{doing}"
        case Reason.OPERATOR:
            return f"cancelled by the operator{doing}"
    return f"cancelled, {reason}{own_words}" if reason else f"cancelled{own_words}"


def _discarded(reason: Reason | None, line: LeaseLine | None) -> str:
    after = "" if line is None or line.after_close_s is None else f"{line.after_close_s:.1f} s "
    match reason:
        case Reason.GOAL_MET:
            return f"offered its update {after}after there were enough"
        case Reason.TOO_STALE:
            return f"offered its update {after}after its version was closed: too stale to count"
        case Reason.ALREADY_COUNTED:
            return "its device had counted with this version already"
        case Reason.RUN_FINISHED:
            return "the run ended" + ("" if line is None else f" {_DOING[line.last]}")
    return f"discarded, {reason}" if reason else "discarded"


def _lost(reason: Reason | None, version: int, line: LeaseLine | None) -> str:
    until = (
        {
            Reason.COMMITTED: f" before version {version} was committed",
            Reason.RUN_FINISHED: " before the run ended",
            Reason.MODEL_GONE: " before its version left the broker",
        }.get(reason, "")
        if reason
        else ""
    )
    if line is not None and not line.is_online:
        return f"went offline {_WENT_OFFLINE[line.last]} and did not return{until}"
    if reason is Reason.SUPERSEDED:
        return "came back without it: what it had done is gone"
    if line is not None:
        return f"made no progress for too long, last seen {_DOING[line.last].removeprefix('while it ')}{until}"
    return f"was not heard of any more{until}"


def round_cause(cause: EndCause | None, *, n_accepted: int, goal: int, quorum: int, n_extensions: int) -> str:
    """Return why a round ended.

    Args:
        cause: None: nobody knows any more.
        n_accepted: updates that counted for its version when it ended.
        goal: reports that close it.
        quorum: fewest that may commit at the deadline.
        n_extensions: how often its window had grown.
    """
    grown = f" after {n_extensions} extension{'s' if n_extensions > 1 else ''}" if n_extensions else ""
    match cause:
        case EndCause.GOAL:
            return f"its goal of {goal} reports was met{grown}"
        case EndCause.DEADLINE | EndCause.EXTENSION:
            return f"its window was over{grown} with {n_accepted} of {goal} reports, and {quorum} are a quorum"
        case EndCause.NOBODY_LEFT:
            return f"{n_accepted} of {goal} reports, {quorum} are a quorum, and nobody was left to wait for or to ask"
        case EndCause.NO_QUORUM:
            return f"its window was over{grown} with {n_accepted} reports, and a quorum is {quorum}"
        case EndCause.VOIDED:
            return "the operator threw away what it had collected"
    return "why is not in the journal"


def pause_words(pauses: Mapping[str, str]) -> str:
    """Return why a run stands still, on one line, from the detail by cause."""
    return "; ".join(f"{cause}: {' '.join(detail.split())}" for cause, detail in pauses.items())
