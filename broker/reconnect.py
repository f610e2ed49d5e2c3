"""When to try the broker again: full jitter, so that a fleet never knocks in step.

Back-off with full jitter is Brooker, "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015): the wait is
uniform between 0 and a bound that doubles with every attempt. Two things are ours. A CONNACK resets nothing, for a
broker that accepts and then breaks would be knocked at once a second for ever; only progress does. And the first
attempt after a loss is uniform over a window that grows with the fleet, for when a broker restarts everybody is lost
in the same instant and a TLS handshake costs it 2 ms.

Not here: waiting, connecting, and what counts as progress.
"""

from random import Random

__all__ = ["BASE_S", "CAP_S", "Reconnect"]

BASE_S = 1.0
"""Bound of the first wait after a failed attempt, in seconds."""
CAP_S = 300.0
"""No bound grows beyond it, in seconds."""
_MAX_DOUBLINGS = 16  # far over the cap, and far from overflowing a float


class Reconnect:
    """Counts attempts without progress, and draws the next wait.

    Args:
        rng: where the jitter comes from; devices must not share a seed.
        base_s: bound of the first wait after a failed attempt, in seconds.
        cap_s: largest bound, in seconds.
    """

    def __init__(self, rng: Random, *, base_s: float = BASE_S, cap_s: float = CAP_S) -> None:
        self._rng = rng
        self._base_s = base_s
        self._cap_s = cap_s
        self._attempts = 0

    @property
    def attempts(self) -> int:
        """Losses and failed attempts since there was progress."""
        return self._attempts

    def progress(self) -> None:
        """Forget all failures: a chunk was acknowledged or received, or a receipt came. A CONNACK is none."""
        self._attempts = 0

    def after_failure(self) -> float:
        """Count an attempt that found no broker, and return the seconds to wait before the next."""
        return self._rng.uniform(0.0, self._next_bound())

    def after_loss(self, reconnect_window_s: float) -> float:
        """Count the loss of an established connection, and return the seconds to wait before the next attempt.

        Args:
            reconnect_window_s: over which the fleet spreads its return, in seconds. Losses without progress between
                them widen it, up to the cap.
        """
        return self._rng.uniform(0.0, max(reconnect_window_s, self._next_bound()))

    def _next_bound(self) -> float:
        bound = min(self._cap_s, self._base_s * 2.0 ** min(self._attempts, _MAX_DOUBLINGS))
        self._attempts += 1
        return bound
