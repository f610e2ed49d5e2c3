"""Selection by utility: devices from which the model learns most a second are asked more often.

Lai, Zhu, Madhyastha, Chowdhury, "Oort: Efficient Federated Learning via Guided Participant Selection" (OSDI 2021,
arXiv 2010.06081), §4 and Algorithm 1. Choose it when devices differ much in speed and in what their data still teach;
it is unfair by intent, so look at the participation of each class of device.

A device that has reported has the utility

    U = |B| sqrt(mean(loss²))               what its examples still teach (§4.2), clipped at a percentile (§4.4)
      + sqrt(0.1 ln R / L)                  the longer ago its round L, the less is known in round R (Algorithm 1)
    x (T/t)^α  when t > T                   it is slower than the preferred duration T (§4.3, equation 1)

and of those above the cut-off some are drawn with a chance in proportion to it. A share ε of the places goes to devices
that never reported, the faster first; ε decays. T grows while rounds bring less and less (the pacer).

Where we differ. A device names its mean loss only: |B| x mean stands for |B| sqrt(mean²), which is never less. U is
scaled to [0, 1] over the candidates before the bonus, as in the authors' code, which adds it to numbers of the
same size. T is a percentile of the candidates' durations, which needs no seconds to be set. Of a device that never
reported, its class alone tells the speed. No device is excluded for having been asked often: that is what
`selection.min_separation` and `max_per_day` are for.
"""

import math
from collections.abc import Sequence
from statistics import fmean

from aggregator.config import OortSettings
from aggregator.selection import Candidate, Draw, fraction_of

__all__ = ["Oort"]

_LEAST = 1e-6
"""A weight above zero: whoever is admitted can be drawn."""
_BONUS = 0.1


class Oort:
    """The rule of that name.

    Args:
        settings: `[selection.oort]`.
    """

    def __init__(self, settings: OortSettings) -> None:
        self._settings = settings

    def draw(self, candidates: Sequence[Candidate], size: int, draw: Draw) -> list[str]:
        known = [each for each in candidates if each.counted_round is not None]
        new = [each for each in candidates if each.counted_round is None]
        n_new = _rounded(self.exploration(draw.round_id) * size, fraction_of(draw.seed, "explore", draw.n_asked))
        n_new = min(len(new), max(n_new, size - len(known)))
        chosen = self._exploited(known, size - n_new, draw) + _explored(new, known, n_new, draw)
        # whoever asks may take the first alone: no kind shall stand before the other
        return sorted(chosen, key=lambda device: fraction_of(draw.seed, "order", draw.round_id, device))

    def exploration(self, round_id: int) -> float:
        """Return ε, the share of a round's places that goes to devices which never reported."""
        knobs = self._settings
        return max(knobs.exploration_min, knobs.exploration * knobs.exploration_decay ** max(0, round_id - 1))

    def patience(self, utilities: Sequence[float]) -> float:
        """Return which percentile of the durations is preferred: it grows each time that a window brought less.

        Args:
            utilities: of each round so far, oldest first.
        """
        width, patience = self._settings.pacer_rounds, self._settings.pacer_start
        for end in range(2 * width, len(utilities) + 1, width):
            earlier, later = utilities[end - 2 * width : end - width], utilities[end - width : end]
            patience += self._settings.pacer_step * (sum(earlier) > sum(later))
        return min(1.0, patience)

    def utility(self, known: Sequence[Candidate], draw: Draw) -> dict[str, float]:
        """Return the utility of devices that have reported, > 0."""
        if not known:
            return {}
        gains = _clipped(_gains(known), self._settings.clip)
        least, range_ = min(gains), (max(gains) - min(gains)) or 1.0
        preferred_s = _percentile([each.seconds for each in known], self.patience(draw.utilities))
        utilities: dict[str, float] = {}
        for each, gain in zip(known, gains, strict=True):
            last = max(1, each.counted_round or 1)
            value = (gain - least) / range_ + math.sqrt(_BONUS * math.log(max(1, draw.round_id)) / last)
            if each.seconds > preferred_s:
                value *= (preferred_s / each.seconds) ** self._settings.penalty
            utilities[each.device] = max(_LEAST, value)
        return utilities

    def _exploited(self, known: Sequence[Candidate], size: int, draw: Draw) -> list[str]:
        if size <= 0 or not known:
            return []
        utilities = self.utility(known, draw)
        ranked = sorted(utilities.values(), reverse=True)
        least = self._settings.cutoff * ranked[min(size, len(ranked)) - 1]
        admitted = {device: value for device, value in utilities.items() if value >= least}
        return _sample(admitted, size, draw)


def _explored(new: Sequence[Candidate], known: Sequence[Candidate], size: int, draw: Draw) -> list[str]:
    """Draw devices that never reported: by the speed of their class, and less often those that were asked in vain."""
    by_class: dict[str, list[float]] = {}
    for each in known:
        by_class.setdefault(each.device_class, []).append(max(each.seconds, _LEAST))
    typical = fmean(seconds for times in by_class.values() for seconds in times) if by_class else 1.0
    means = {name: fmean(times) for name, times in by_class.items()}
    weights = {each.device: each.chance * typical / means.get(each.device_class, typical) for each in new}
    return _sample(weights, size, draw)


def _gains(known: Sequence[Candidate]) -> list[float]:
    """Return examples x mean loss of each; who names no loss has that of the others."""
    losses = [each.loss for each in known if each.loss is not None]
    typical = fmean(losses) if losses else 1.0
    return [max(1, each.num_examples) * max(0.0, typical if each.loss is None else each.loss) for each in known]


def _clipped(values: list[float], share: float) -> list[float]:
    cap = _percentile(values, share)
    return [min(cap, value) for value in values]


def _percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest of the values that at least this share of them does not exceed."""
    return sorted(values)[max(0, math.ceil(round(share * len(values), 9)) - 1)]


def _rounded(value: float, chance: float) -> int:
    """Round up or down, so that the mean over all chances in (0, 1) is the value."""
    return math.floor(value) + (chance < value % 1.0)


def _sample(weights: dict[str, float], size: int, draw: Draw) -> list[str]:
    """Draw without replacement, each time in proportion to the weights.

    The first of independent exponential clocks that run at these rates: Efraimidis and Spirakis, "Weighted random
    sampling with a reservoir" (Information Processing Letters 97, 2006).
    """

    def clock(device: str) -> tuple[float, str]:
        return -math.log(fraction_of(draw.seed, "oort", draw.round_id, device)) / max(_LEAST, weights[device]), device

    return sorted(weights, key=clock)[: max(0, size)]
