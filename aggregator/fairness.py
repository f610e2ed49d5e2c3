"""Who takes part in a run and for whom its model is good: shares by class of device, evenness over devices.

Jain's index of n values x is (Σx)² / (n Σx²): 1 when all are equal, k/n when k of n have all; Jain, Chiu, Hawe, "A
Quantitative Measure of Fairness and Discrimination for Resource Allocation in Shared Computer Systems", DEC-TR-301
(1984), arXiv cs/9809099, eq. (1). How even the accuracy over devices is: Li, Sanjabi, Beirami, Smith, "Fair Resource
Allocation in Federated Learning" (arXiv 1905.10497), Definition 1, compare the variance over devices; they report, as
we do, the tail beside it.

A device's share in a version is its weight over the sum of the weights of that version; in the model, the mean over
the versions. What was thrown away has none.

Pure. Not here: drawing (`fairness_plot.py`), what became of each lease (`explained_rounds.py`).
"""

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from aggregator.evaluation import DeviceReport, federated_metrics
from aggregator.explanation import ExplainedLease, ExplainedRun, MetricsReport

__all__ = ["ClassAccuracy", "ClassShare", "FairnessReport", "fairness_of", "jain_index"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassShare:
    """One class of device in a run.

    Args:
        device_class: "" are the devices that do not say.
        n_devices: of it that were seen.
        population_share: of all that were seen, in [0, 1].
        n_selected: leases that its devices were given.
        selected_share: of all leases.
        n_accepted: of its updates that counted, late ones included.
        n_late: of these, with a staleness over 0.
        n_lost: of its leases, those nothing more was heard of.
        n_refused: refusals of its devices, one a round that it kept a device out of.
        weight_share: of the model, in [0, 1].
        completion: share of its ended leases that counted; None: none has ended.
        representation: weight share over population share, 1 when the class weighs what it is; None: of no device.
    """

    device_class: str
    n_devices: int
    population_share: float
    n_selected: int
    selected_share: float
    n_accepted: int
    n_late: int
    n_lost: int
    n_refused: int
    weight_share: float
    completion: float | None
    representation: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassAccuracy:
    """How good a version is on the devices of one class.

    Args:
        device_class: "" are the devices that do not say.
        n_devices: that reported.
        value: over all their examples.
        p10: 10th percentile of the devices' own values.
    """

    device_class: str
    n_devices: int
    value: float
    p10: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FairnessReport:
    """A run by class of device.

    Args:
        n_devices: seen.
        n_ever_counted: of these, devices of which an update counted.
        jain_selected: Jain's index of the leases a device was given, over all devices seen.
        jain_counted: the same of the updates that counted.
        jain_weight: the same of the share in the model.
        heaviest_tenth: share in the model of the tenth of all devices that weighs most.
        classes: by population, the largest first.
        metric: that devices evaluated, None when none did.
        version: of the newest evaluation.
        value: of the metric over all examples.
        p10: 10th percentile of the devices' own values; p50 and p90 likewise.
        deviation: standard deviation of the devices' own values.
        worst_class: with the lowest accuracy, or the highest loss; None when nobody evaluated.
        accuracy: by class, in the order of `classes`.
    """

    n_devices: int
    n_ever_counted: int
    jain_selected: float | None
    jain_counted: float | None
    jain_weight: float | None
    heaviest_tenth: float | None
    classes: tuple[ClassShare, ...]
    metric: str | None = None
    version: int | None = None
    value: float | None = None
    p10: float | None = None
    p50: float | None = None
    p90: float | None = None
    deviation: float | None = None
    worst_class: str | None = None
    accuracy: tuple[ClassAccuracy, ...] = ()


def jain_index(values: Iterable[float], n: int | None = None) -> float | None:
    """Return Jain's index: 1 for (3, 3), 0.5 for (3, 0); None when there is no value or all are 0.

    Args:
        values: none negative.
        n: how many there are; the ones that are not in `values` are 0.
    """
    found = list(values)
    total, squares = math.fsum(found), math.fsum(value * value for value in found)
    count = len(found) if n is None else n
    return total * total / (count * squares) if count and squares > 0 else None


def fairness_of(run: ExplainedRun, *, metric: str = "accuracy") -> FairnessReport:
    """Return who took part in a run, and for whom its newest evaluated version is good.

    Args:
        run: explained.
        metric: that is compared; when no device reported it, the first that one did.
    """
    leases = [lease for each in run.rounds for lease in each.leases]
    class_of = {lease.device: lease.device_class for lease in leases}
    seen = Counter(run.population)
    for name, n in Counter(class_of.values()).items():
        seen[name] = max(seen[name], n)  # given work before a restart, and not seen since
    n_devices = sum(seen.values())
    shares = _shares(leases, run.version)
    selected = Counter(lease.device for lease in leases)
    counted = Counter(lease.device for lease in leases if _counts(lease))
    n_tenth = math.ceil(n_devices / 10)
    heaviest = math.fsum(sorted(shares.values(), reverse=True)[:n_tenth]) if shares else None
    refused = Counter(refusal.device_class for each in run.rounds for refusal in each.refused)
    names = sorted({*seen, *refused}, key=lambda name: (-seen[name], name))
    of_class: dict[str, list[ExplainedLease]] = defaultdict(list)
    for lease in leases:
        of_class[lease.device_class].append(lease)
    weight_of_class: dict[str, float] = defaultdict(float)
    for device, share in shares.items():
        weight_of_class[class_of[device]] += share
    classes = tuple(
        _class_share(name, of_class[name], seen[name], n_devices, len(leases), refused[name], weight_of_class[name])
        for name in names
    )
    report = FairnessReport(
        n_devices=n_devices,
        n_ever_counted=len(counted),
        jain_selected=jain_index(selected.values(), n_devices),
        jain_counted=jain_index(counted.values(), n_devices),
        jain_weight=jain_index(shares.values(), n_devices),
        heaviest_tenth=heaviest,
        classes=classes,
    )
    return _with_accuracy(report, run.evaluations, metric)


def _counts(lease: ExplainedLease) -> bool:
    return lease.into is not None and not lease.is_voided


def _shares(leases: Iterable[ExplainedLease], version: int) -> dict[str, float]:
    """Return each device's share in the model of a version; those of devices that have one sum to 1."""
    weights: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for lease in leases:
        if _counts(lease) and lease.into is not None and lease.into <= version:
            weights[lease.into][lease.device] += lease.weight
    shares: dict[str, float] = defaultdict(float)
    totals = {into: math.fsum(of.values()) for into, of in weights.items()}
    n_versions = sum(total > 0 for total in totals.values())
    for into, of in weights.items():
        for device, weight in of.items() if totals[into] > 0 else ():
            shares[device] += weight / totals[into] / n_versions
    return dict(shares)


def _class_share(
    name: str,
    leases: Sequence[ExplainedLease],
    n_seen: int,
    n_devices: int,
    n_leases: int,
    n_refused: int,
    weight_share: float,
) -> ClassShare:
    n_accepted, n_ended = sum(map(_counts, leases)), sum(lease.state != "open" for lease in leases)
    population_share = n_seen / n_devices if n_devices else 0.0
    return ClassShare(
        device_class=name,
        n_devices=n_seen,
        population_share=population_share,
        n_selected=len(leases),
        selected_share=len(leases) / n_leases if n_leases else 0.0,
        n_accepted=n_accepted,
        n_late=sum(lease.state == "late" and _counts(lease) for lease in leases),
        n_lost=sum(lease.state == "lost" for lease in leases),
        n_refused=n_refused,
        weight_share=weight_share,
        completion=n_accepted / n_ended if n_ended else None,
        representation=weight_share / population_share if population_share else None,
    )


def _with_accuracy(report: FairnessReport, evaluations: Sequence[MetricsReport], metric: str) -> FairnessReport:
    """Add what devices found of the newest version that any of them evaluated."""
    if not evaluations:
        return report
    version = max(each.version for each in evaluations)
    newest = [each for each in evaluations if each.version == version]
    names = sorted({name for each in newest for name, _ in each.metrics})
    if not names:
        return report
    metric = metric if metric in names else names[0]
    overall = federated_metrics([_report_of(each) for each in newest]).get(metric)
    if overall is None:
        return report
    accuracy = []
    for share in report.classes:
        of_class = [_report_of(each) for each in newest if each.device_class == share.device_class]
        found = federated_metrics(of_class).get(metric)
        if found is not None:
            accuracy.append(
                ClassAccuracy(
                    device_class=share.device_class, n_devices=found.n_devices, value=found.value, p10=found.p10
                )
            )
    own = [found.value for each in newest if (found := federated_metrics([_report_of(each)]).get(metric)) is not None]
    is_loss = "loss" in metric or "error" in metric
    worst = (max if is_loss else min)(accuracy, key=lambda each: each.value, default=None)
    return replace(
        report,
        metric=metric,
        version=version,
        value=overall.value,
        p10=overall.p10,
        p50=overall.p50,
        p90=overall.p90,
        deviation=statistics.pstdev(own) if own else None,
        worst_class=None if worst is None else worst.device_class,
        accuracy=tuple(accuracy),
    )


def _report_of(each: MetricsReport) -> DeviceReport:
    return each.device, each.num_examples, each.metrics
