"""The cohort, a function of (seed, round, candidates, history), and every other draw that a run makes.

A rule is told who may be asked and what is known of each, and names whom to ask. `Uniform` is fair to every device that
is there, and what the convergence of FedAvg is shown for; `oort.py` favours those who teach the model most a second; a
user's own is named in the settings.

Not here: who may be asked (`invitations.py`), how often a rule is asked (`drawing.py`).
"""

import hashlib
import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Candidate", "Draw", "SelectionRule", "Uniform", "draw_cohort", "fraction_of", "seed_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A device that may be asked now, and what the aggregator knows of it; zeros and None until it has had work.

    Args:
        device: its id.
        device_class: such as "pi-4"; "" when it does not say.
        n_asked: how often it was given training work, in this run.
        n_counted: how many of its updates were accepted.
        asked_round: the last round in which it was asked.
        counted_round: the last round in which an update of its was accepted.
        num_examples: behind its last accepted update, by its own word.
        loss: mean training loss of that update, by its own word; None: it named none.
        seconds: from the lease to the verdict on that update.
        chance: in (0, 1], that an update of its counts, once it is asked (`track_records.py`).
    """

    device: str
    device_class: str = ""
    n_asked: int = 0
    n_counted: int = 0
    asked_round: int | None = None
    counted_round: int | None = None
    num_examples: int = 0
    loss: float | None = None
    seconds: float = 0.0
    chance: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """What is asked of a rule besides the candidates.

    Args:
        seed: of the run.
        round_id: for which devices are wanted.
        n_asked: how often any device was given training work before; two draws of a round differ in it.
        utilities: of each round so far that accepted something, oldest first: Σ num_examples x loss.
    """

    seed: int
    round_id: int
    n_asked: int = 0
    utilities: Sequence[float] = ()


class SelectionRule(Protocol):
    """Who of the candidates is asked. Keeps nothing between draws: the same arguments give the same answer."""

    def draw(self, candidates: Sequence[Candidate], size: int, draw: Draw) -> Sequence[str]:
        """Return the ids of at most `size` of the candidates, none twice; whom to ask first stands first.

        Args:
            candidates: in any order, at least one.
            size: how many are wanted, >= 1.
            draw: which draw this is.
        """


class Uniform:
    """Every candidate with the same chance."""

    def draw(self, candidates: Sequence[Candidate], size: int, draw: Draw) -> list[str]:
        return draw_cohort(draw.seed, "train", draw.round_id, (each.device for each in candidates), size)


def seed_of(*parts: str | int) -> int:
    """Return a seed in [0, 2^63) that is a function of `parts` alone."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def fraction_of(*parts: str | int) -> float:
    """Return a number in (0, 1), uniform over all `parts`, and a function of them alone."""
    return (seed_of(*parts) + 0.5) / 2**63


def draw_cohort(seed: int, purpose: str, round_id: int, candidates: Iterable[str], size: int) -> list[str]:
    """Return `size` of the candidates (all, when there are fewer), drawn uniformly without replacement.

    Devices are ranked by a keyed hash and the first are taken: independent from round to round, the same after a
    restart, and not reshuffled when one more candidate appears.

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
