"""The cohort, a function of (seed, round, candidates), and every other draw that a run makes.

Devices are ranked by a keyed hash and the first are taken: uniform over candidates, independent from round to round,
the same after a restart, and not reshuffled when one more candidate appears.
"""

import hashlib
import heapq
from collections.abc import Iterable

__all__ = ["draw_cohort", "seed_of"]


def seed_of(*parts: str | int) -> int:
    """Return a seed in [0, 2^63) that is a function of `parts` alone."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def draw_cohort(seed: int, purpose: str, round_id: int, candidates: Iterable[str], size: int) -> list[str]:
    """Return `size` of the candidates (all, when there are fewer), drawn uniformly without replacement.

    Args:
        seed: of the run.
        purpose: keeps draws for training and for evaluation independent.
        round_id: which round asks.
        candidates: device ids, in any order.
        size: how many are wanted, >= 0.
    """
    key = f"{seed}/{purpose}/{round_id}".encode()[:64]

    def rank(device: str) -> bytes:
        return hashlib.blake2b(device.encode(), digest_size=16, key=key).digest()

    return heapq.nsmallest(size, candidates, key=rank)
