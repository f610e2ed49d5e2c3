"""Which retained chunks to ask the broker for, how many at once, and when to ask again.

A window of explicit topics, for brokers truncate a wildcard of retained messages at QoS 1. What does not come within a
growing patience is asked for again; from the third time on somebody has to be told.

What was asked for lies ahead of everything else on the way down, the answers to the device's own messages included. So
the window grows only while pieces come soon after they were asked for: on a thin link there is one under way, and a
cancelled lease or the next status is not minutes behind.

Pure. Not here: subscribing (`downloading.py`), keeping what has come (`model_cache.py`).
"""

from collections.abc import Iterable

__all__ = ["ASKS_UNTIL_MISSING", "MAX_WINDOW", "FetchWindow"]

MAX_WINDOW = 16
ASKS_UNTIL_MISSING = 3
SOON_S = 15.0
"""The window doubles with a piece that comes within so many seconds of being asked for, and halves with any other."""
SLOWEST_FACTOR = 4.0
"""The patience is at least so many times the slowest chunk so far."""


class FetchWindow:
    """The pieces of one blob on one connection. All instants are loop seconds.

    Args:
        missing: indexes to fetch, in this order.
        patience_s: seconds without any arrival after which is asked again.
    """

    def __init__(self, missing: Iterable[int], patience_s: float) -> None:
        self._waiting = dict.fromkeys(missing)
        self._asked: dict[int, float] = {}
        self._patience_s = patience_s
        self._least_patience_s = patience_s
        self._slowest_s = 0.0
        self._window = 1
        self._asks = 1
        self._quiet_since = 0.0

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing."""
        return not self._waiting and not self._asked

    @property
    def asked(self) -> list[int]:
        """Pieces that were asked for and have not come."""
        return list(self._asked)

    @property
    def deadline(self) -> float | None:
        """When to ask again; None: nothing was asked for."""
        return self._quiet_since + self._patience_s if self._asked else None

    @property
    def is_missing(self) -> bool:
        """Whether it was asked often enough to say that the blob is missing."""
        return self._asks >= ASKS_UNTIL_MISSING

    def ask(self, now: float) -> list[int]:
        """Return the pieces to ask for now: they count as asked from here on."""
        room = self._window - len(self._asked)
        # half a window at a time: a SUBSCRIBE for every single piece would cost more than the piece
        if room < max(1, self._window // 2) and len(self._waiting) > room:
            return []
        pieces = list(self._waiting)[: max(0, room)]
        if pieces and not self._asked:
            self._quiet_since = now
        for piece in pieces:
            del self._waiting[piece]
            self._asked[piece] = now
        return pieces

    def arrived(self, piece: int, now: float) -> bool:
        """Count a piece that is there and right; one that came wrong still counts as asked for.

        Returns:
            Whether it was asked for.
        """
        asked_at = self._asked.pop(piece, None)
        if asked_at is None:
            return False
        took_s = now - asked_at
        self._slowest_s = max(self._slowest_s, took_s)
        self._patience_s = max(self._least_patience_s, SLOWEST_FACTOR * self._slowest_s)
        self._quiet_since, self._asks = now, 1
        self._window = min(MAX_WINDOW, 2 * self._window) if took_s <= SOON_S else max(1, self._window // 2)
        return True

    def ask_again(self, now: float) -> list[int]:
        """The deadline has passed: return the pieces to ask for once more, with twice the patience."""
        self._asks += 1
        self._patience_s *= 2
        self._quiet_since = now
        self._asked = dict.fromkeys(self._asked, now)
        return list(self._asked)
