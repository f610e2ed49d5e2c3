"""How much a late update counts, as a function of its staleness.

Staleness is the version an update will help build, minus one, minus the version it was trained from: a whole number
>= 0. What is late counts (1 + staleness)^-a of what it would in time: polynomial damping, Xie, Koyejo, Gupta,
"Asynchronous Federated Optimization" (arXiv 1903.03934) §5.2, which Nguyen et al., "Federated Learning with Buffered
Asynchronous Aggregation" (arXiv 2106.06639) take over with a = 0.5. As there, the mean divides by what the updates
would have weighed in time: when all of them are late the model moves less, and with a goal of one, too.

Not here: deciding about one report, and how late is too late (`tally.py`).
"""

from shared.errors import InvalidState

__all__ = ["discount", "staleness"]


def staleness(into: int, base_version: int) -> int:
    """Return the staleness of an update trained from `base_version` that will help build `into`.

    Raises:
        InvalidState: it was trained from a version that does not exist yet, which only our own bug can cause.
    """
    if base_version >= into:
        raise InvalidState(f"an update from version {base_version} cannot help build version {into}")
    return into - 1 - base_version


def discount(versions: int, exponent: float) -> float:
    """Return what is left of a late update, in (0, 1]; 1 for one in time.

    Args:
        versions: its staleness, >= 0.
        exponent: damping strength a, >= 0; 0 ignores staleness.
    """
    return float((1 + versions) ** -exponent)
