"""What an update counts beside its examples: more when its device seldom gets as far as this.

Devices on mains power and fast links finish nearly always, others seldom; in a plain mean the former own the model.
With `server.reweight = "finishing"` an update counts 1/p of its weight, p being the estimated chance that an update of
its device counts once it is asked (`track_records.py`): Horvitz and Thompson, "A Generalization of Sampling Without
Replacement From a Finite Universe" (JASA 47, 1952). Wang and Ji, "A Lightweight Method for Tackling Unknown
Participation Statistics in Federated Averaging" (ICLR 2024, arXiv 2306.03401), weigh by intervals between
participations, with a cutoff, for the same end; ours looks at leases, for who is asked is drawn by us. The cap bounds
the variance, and with it how far a device can raise its own weight by failing on purpose.

Pure. The factor stands in the weight of the ACCEPT row, so the model stays a function of configuration and journal.
"""

from shared.errors import InvalidState

__all__ = ["CAP", "finishing_factor"]

CAP = 10.0
"""An update counts at most so many times its weight."""


def finishing_factor(chance: float) -> float:
    """Return min(`CAP`, 1/chance): 4 for a device that finishes every fourth time.

    Args:
        chance: in (0, 1].

    Raises:
        InvalidState: it is no chance, which only our own bug can cause.
    """
    if not 0 < chance <= 1:
        raise InvalidState(f"a chance of {chance}")
    return min(CAP, 1 / chance)
