"""How much a late update counts, as a function of its staleness.

Staleness is the version an update will help build, minus one, minus the version it was trained from: a whole number
>= 0. Synchronous rounds take none that is late (`max_staleness = 0`); what is taken counts in full. Damping by
(1 + staleness)^-a comes with the modes that take late updates.

Not here: deciding about one report (`admission.py`).
"""

from shared.errors import InvalidState

__all__ = ["staleness"]


def staleness(into: int, base_version: int) -> int:
    """Return the staleness of an update trained from `base_version` that will help build `into`.

    Raises:
        InvalidState: it was trained from a version that does not exist yet, which only our own bug can cause.
    """
    if base_version >= into:
        raise InvalidState(f"an update from version {base_version} cannot help build version {into}")
    return into - 1 - base_version
