"""What the numbers of a use say: its tables, its targets, its picture.

Not here: how they were computed (`uses.py`).
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from results.case import N_FOLDS, Found, Numbers, Section, Verdict, outcome_of
from results.intervals import Interval, over_seeds, over_splits, quantile
from results.page import said
from results.pictures import draw_intervals
from results.uses import ALONE, CENTRAL, FEDERATED, Measure, Use

__all__ = ["draw_use", "use_section"]

POINTS, PER_CENT = 2.0, 5.0
"""By so much the federated model may be worse than one of all data in one place."""
Place = tuple[int, int]
"""(seed, fold)."""
Devices = Sequence[float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A measure of the federated model beside a baseline's.

    Args:
        ours: mean over seeds and folds; of devices, of the median one.
        theirs: the baseline's.
        difference: ours less theirs, in points or per cent.
        setting: rate and passes at which the baseline is best, in words.
        worst: for devices, the 10th percentile of what they gain, in the unit of `difference`.
        share: for devices, how many of them are better off, at least as well off not included.
    """

    ours: float
    theirs: float
    difference: Interval
    setting: str
    worst: float = 0.0
    share: float = 0.0


def use_section(use: Use, found: Found, text: Sequence[str]) -> Section:
    """Return a use's section.

    Args:
        use: whose.
        found: its numbers.
        text: what it is, in paragraphs.
    """
    overall = {measure: _overall(use, found, measure) for measure in use.measures if measure.of != "devices"}
    by_device = {measure: _by_device(use, found, measure) for measure in use.measures if measure.of != "all"}
    overall_rows = [
        (_titled(measure), *_both(measure, each), _told(measure, each), each.setting)
        for measure, each in overall.items()
    ]
    device_rows = [
        (
            f"{_titled(measure)}, median device",
            *_both(measure, each),
            _told(measure, each),
            f"{each.worst:+.2f}",
            f"{each.share:.0%}",
            each.setting,
        )
        for measure, each in by_device.items()
    ]
    head = ("", "federated", "all data in one place", "difference", "baseline's best")
    device_head = ("", "federated", "alone", "difference", "10th percentile of gains", "better off", "baseline's best")
    words = [_near_words(measure, each) for measure, each in overall.items()]
    words += [_better_words(measure, each) for measure, each in by_device.items()]
    verdicts = [_near(measure, each) for measure, each in overall.items()]
    verdicts += [_better(measure, each) for measure, each in by_device.items()]
    return Section(
        text=[*text, _how(use, found)],
        tables=[table for table in ([head, *overall_rows], [device_head, *device_rows]) if len(table) > 1],
        meaning=" ".join(words),
        verdicts=verdicts,
        picture="differences to both baselines with their intervals, and what each device gains",
    )


def draw_use(use: Use, found: Found, axes: Sequence[Any]) -> None:
    """Draw the differences with their intervals, and every device's gain."""
    intervals: dict[str, Interval] = {}
    for measure in use.measures:
        if measure.of != "devices":
            intervals[f"{measure.title} ({measure.unit or 'own unit'}):\nall in one place"] = _overall(
                use, found, measure
            ).difference
        if measure.of != "all":
            intervals[f"{measure.title} ({measure.unit or 'own unit'}):\nmedian device alone"] = _by_device(
                use, found, measure
            ).difference
    draw_intervals(axes[0], intervals, x="federated less baseline")
    measure = next(each for each in use.measures if each.of != "all")
    gains = sorted(_gains_of_devices(use, found, measure))
    axes[1].bar(range(1, len(gains) + 1), gains, color="#009E73")
    axes[1].axhline(0, color="#000000", linewidth=0.8)
    axes[1].set_xlabel("devices, ordered")
    axes[1].set_ylabel(f"{measure.title}: gain over alone, {measure.unit}")


def _how(use: Use, found: Found) -> str:
    runs = found.of(FEDERATED)
    rounds = int(cast(float, runs[0][1]["rounds"]))
    n_seeds, n_folds = len({run.seed for run, _ in runs}), len({run.fold for run, _ in runs})
    title = next(measure.title for measure in use.measures if measure.name == use.chosen_by)
    central, alone = _grid(use, found, CENTRAL), _grid(use, found, ALONE)
    trained = f"All data in one place were trained {central}; every device alone {alone}."
    if central == alone:
        trained = f"Both baselines were trained {central}."
    return (
        f"{n_seeds} seeds, each with {use.seeds_draw} of its own, {n_folds} folds of {N_FOLDS}, {rounds} rounds each. "
        f"{trained} Shown is the best of these settings by the {title}, once for all figures."
    )


def _grid(use: Use, found: Found, arm: str) -> str:
    rates = ", ".join(f"{rate:.2g}" for rate in found.options(arm, "rate"))
    passes = ", ".join(f"{multiple:g}" for multiple in use.baseline(arm).passes)
    size = use.baseline(arm).batch_size
    return (
        f"at {rates} times the scenario's learning rate{'' if size is None else f' in batches of {size}'} and "
        f"evaluated after {passes} times the passes that a device of the federated run makes"
    )


def _overall(use: Use, found: Found, measure: Measure) -> Compared:
    ours = {_place(run): cast(float, numbers[measure.name]) for run, numbers in found.of(FEDERATED)}

    def value(numbers: Numbers, multiple: float) -> float:
        return cast(float, numbers[f"{measure.name} @ {multiple:g}"])

    rate, multiple = _best(use, found, CENTRAL)
    theirs = {_place(run): value(numbers, multiple) for run, numbers in found.of(CENTRAL, rate=rate)}
    return Compared(
        ours=statistics.fmean(ours.values()),
        theirs=statistics.fmean(theirs.values()),
        difference=_interval(use, {at: _difference(measure, ours[at], theirs[at]) for at in ours}),
        setting=_setting(rate, multiple),
    )


def _by_device(use: Use, found: Found, measure: Measure) -> Compared:
    ours, theirs, setting = _pairs(use, found, measure)
    differences = {at: _differences(measure, ours[at], theirs[at]) for at in ours}
    gains = [_gain(measure, each) for of_run in differences.values() for each in of_run]
    medians = {at: quantile(each, 0.5) for at, each in differences.items()}
    return Compared(
        ours=statistics.fmean(_median(each) for each in ours.values()),
        theirs=statistics.fmean(_median(each) for each in theirs.values()),
        difference=_interval(use, medians),
        setting=setting,
        worst=statistics.fmean(
            quantile([_gain(measure, value) for value in each], 0.1) for each in differences.values()
        ),
        share=sum(gain > 0 for gain in gains) / len(gains),
    )


def _gains_of_devices(use: Use, found: Found, measure: Measure) -> list[float]:
    """Return each device's mean gain over seeds and folds."""
    ours, theirs, _ = _pairs(use, found, measure)
    gains: dict[int, list[float]] = {}
    for at in ours:
        for device, (one, other) in enumerate(zip(ours[at], theirs[at], strict=True)):
            if one is not None and other is not None:
                gains.setdefault(device, []).append(_gain(measure, _difference(measure, one, other)))
    return [statistics.fmean(each) for each in gains.values()]


def _pairs(use: Use, found: Found, measure: Measure) -> tuple[dict[Place, Devices], dict[Place, Devices], str]:
    """Return what devices have of the federated model and alone by seed and fold, and where the latter is best."""
    rate, multiple = _best(use, found, ALONE)
    name = f"device {measure.name}"
    ours = {_place(run): cast(Devices, numbers[name]) for run, numbers in found.of(FEDERATED)}
    theirs = {
        _place(run): cast(Devices, numbers[f"{name} @ {multiple:g}"]) for run, numbers in found.of(ALONE, rate=rate)
    }
    return ours, theirs, _setting(rate, multiple)


def _best(use: Use, found: Found, arm: str) -> tuple[float, float]:
    """Return the rate and the multiple of passes at which a baseline is best on average, by the measure for that."""
    measure = next(each for each in use.measures if each.name == use.chosen_by)
    sign = 1 if measure.is_error else -1

    def value(numbers: Numbers, multiple: float) -> float | None:
        if arm == CENTRAL:
            return cast(float | None, numbers[f"{measure.name} @ {multiple:g}"])
        return _median(cast(Devices, numbers[f"device {measure.name} @ {multiple:g}"]))

    def mean(rate: float, multiple: float) -> float:
        values = [value(numbers, multiple) for _, numbers in found.of(arm, rate=rate)]
        known = [each for each in values if each is not None]
        return math.inf if len(known) < len(values) else sign * statistics.fmean(known)  # None: it has diverged

    settings = [(rate, multiple) for rate in found.options(arm, "rate") for multiple in use.baseline(arm).passes]
    return min(settings, key=lambda setting: mean(*setting))


def _interval(use: Use, values: Mapping[Place, float]) -> Interval:
    return over_seeds(values) if use.seeds_draw == "data" else over_splits(values, n_folds=N_FOLDS)


def _difference(measure: Measure, ours: float, theirs: float) -> float:
    match measure.unit:
        case "points":
            return 100 * (ours - theirs)
        case "%":
            return 100 * (ours / theirs - 1)
    return ours - theirs


def _differences(measure: Measure, ours: Devices, theirs: Devices) -> list[float]:
    """Return the differences of the devices that have both."""
    return [
        _difference(measure, one, other)
        for one, other in zip(ours, theirs, strict=True)
        if one is not None and other is not None
    ]


def _gain(measure: Measure, difference: float) -> float:
    return -difference if measure.is_error else difference


def _median(values: Devices) -> float:
    return quantile([value for value in values if value is not None], 0.5)


def _near(measure: Measure, each: Compared) -> Verdict:
    bound = PER_CENT if measure.unit == "%" else POINTS
    worse = _worse(measure, each.difference)
    return Verdict(
        target=f"{measure.title} within {bound:g} {measure.unit} of all data in one place",
        found=_told(measure, each),
        outcome=outcome_of(worse.high <= bound, worse.mean <= bound),
    )


def _better(measure: Measure, each: Compared) -> Verdict:
    worse = _worse(measure, each.difference)
    return Verdict(
        target=f"{measure.title} better than alone for the median device",
        found=_told(measure, each),
        outcome=outcome_of(worse.high < 0, worse.mean < 0),
    )


def _worse(measure: Measure, difference: Interval) -> Interval:
    """Return by how much the federated model is worse."""
    if measure.is_error:
        return difference
    return Interval(mean=-difference.mean, low=-difference.high, high=-difference.low, n=difference.n)


def _near_words(measure: Measure, each: Compared) -> str:
    words = {
        "met": "is within {} of that of all data in one place, the interval included",
        "open": "is on average within {} of that of all data in one place; the interval is not",
        "missed": "is worse than that of all data in one place, by more than {}",
    }
    bound = f"{PER_CENT if measure.unit == '%' else POINTS:g} {measure.unit}"
    return f"The federated model's {measure.title} {words[_near(measure, each).outcome].format(bound)}."


def _better_words(measure: Measure, each: Compared) -> str:
    words = {
        "met": "is better off with the federated model than alone",
        "open": "is better off on average, but the interval has room for the contrary",
        "missed": "is no better off than alone",
    }
    return f"By its {measure.title} the median device {words[_better(measure, each).outcome]}."


def _told(measure: Measure, each: Compared) -> str:
    return f"{said(each.difference, '+.2f' if measure.unit else '+.3f')} {measure.unit}".rstrip()


def _titled(measure: Measure) -> str:
    return f"{measure.title}{' (less is better)' if measure.is_error else ''}"


def _both(measure: Measure, each: Compared) -> tuple[str, str]:
    first, second = (
        f"{100 * value:.2f} %" if measure.unit == "points" else f"{value:.4g}" for value in (each.ours, each.theirs)
    )
    return first, second


def _setting(rate: float, multiple: float) -> str:
    return f"rate x {rate:.2g}, passes x {multiple:g}"


def _place(run: Any) -> Place:
    return run.seed, run.fold
