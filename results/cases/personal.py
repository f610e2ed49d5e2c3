"""Personal models against the global one, on devices that differ in labels or in their cameras.

FedBN is Li et al. (ICLR 2021, arXiv 2102.07623), FedPer Arivazhagan et al. (arXiv 1912.00818), FedRep Collins et al.
(ICML 2021, arXiv 2102.07078).
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, cast

from results.case import N_FOLDS, Found, Numbers, Run, Scale, Section, Verdict, outcome_of
from results.federated import federate, scenario_from
from results.intervals import Interval, interval_of, over_folds, quantile
from results.page import said
from results.personal_digits import BRIGHTNESSES, CONTRASTS, Remembering, Skew, digits_task
from results.pictures import COLOURS, draw_intervals
from shared.task import Client, ClientId

__all__ = ["case"]

N_DEVICES, ROUNDS, EPOCHS, BATCH, RATE = 10, 20, 3, 16, 0.1
GLOBALS = ("global", "plain")
NAMES = {
    "global": "global",
    "plain": "global, without a norm",
    "fedbn": "FedBN",
    "fedper": "FedPer",
    "fedrep": "FedRep",
}
QUICK_ROUNDS = 3
SKEWS: Mapping[Skew, str] = {"labels": "other digits", "cameras": "other cameras"}


class Personal:
    """See `Case`."""

    title = "Personal models on skewed devices"
    place = 30
    sources: Sequence[str] = ("results/personal_digits.py",)

    def runs(self, scale: Scale) -> Sequence[Run]:
        """Every kind of model for every seed and fold."""
        rounds = QUICK_ROUNDS if scale.is_quick else ROUNDS
        return [
            Run(case="personal", arm=f"{skew} {kind}", seed=seed, fold=fold, options={"rounds": rounds})
            for seed in scale.seeds
            for fold in scale.folds
            for skew in SKEWS
            for kind in NAMES
        ]

    def compute(self, run: Run) -> Numbers:
        """Return each device's `accuracy` and `loss` on what it holds out: of its own model, or of the global one."""
        changes = {
            "seed": run.seed,
            "run.task": "results.personal_digits:digits_task",
            "run.training": {"epochs": EPOCHS, "batch_size": BATCH, "learning_rate": RATE, "codec": "float32"},
            "run.round": {"report_goal": N_DEVICES, "over_selection": 1.0, "quorum": 1.0},
            "run.evaluation": {"central_every": 0},
            "run.stop": {"rounds": int(run.options["rounds"])},
            "run.transfer": {"check_in_interval_s": 5, "reconnect_window_s": 1},
            "devices.device.count": N_DEVICES,
        }
        skew, kind = run.arm.split()
        task = Remembering(digits_task(kind, cast(Skew, skew), seed=run.seed, fold=run.fold))
        scenario = scenario_from(None, changes)
        found = federate(scenario, task)
        accuracies, losses = [], []
        for device in scenario.plan():
            client = Client(id=ClientId(device.id), partition=device.partition)
            evaluated = task.evaluate(found.parameters, client, task.states.get(device.id, {}))
            assert evaluated is not None
            right, n = cast("tuple[float, float]", evaluated.metrics["accuracy"])
            accuracies.append(right / n)
            losses.append(cast("tuple[float, float]", evaluated.metrics["loss"])[0] / n)
        return {"accuracy": accuracies, "loss": losses}

    def section(self, found: Found) -> Section:
        """Compare each kind with the global model, device by device, on devices of either skew."""
        gains = {(skew, kind): _gain(found, skew, kind) for skew in SKEWS for kind in NAMES if kind not in GLOBALS}
        tails = {(skew, kind): _mean_quantile(found, skew, kind, 0.1) for skew in SKEWS for kind in NAMES}
        rows = [self._row(found, skew, kind) for skew in SKEWS for kind in NAMES]
        n_seeds = len({run.seed for run in found.runs})
        return Section(
            text=[
                f"{N_DEVICES} devices, all in each of {int(found.options('labels global', 'rounds')[0])} rounds, that "
                "differ either in what they see, two to four digits each, or in how: all digits, but a camera of each "
                f"device's own, with a contrast between {CONTRASTS[0]} and {CONTRASTS[1]} and a brightness between "
                f"{BRIGHTNESSES[0]:g} and {BRIGHTNESSES[1]:g}. The network is 64-32-10. *FedBN* has a "
                "batch norm in it and keeps that at home; *FedPer* keeps the head, *FedRep* too, and trains it first. "
                "Gains are those over the better of two global models, with a norm and without. All have the same rate "
                f"and passes. {n_seeds} seeds, each with a deal of its own, and folds of each device's "
                "images; a device is compared with itself, on what it holds out. As each seed has other devices, it "
                "counts as one sample, by the mean over its folds.",
            ],
            tables=[
                [
                    (
                        "devices with",
                        "",
                        "median device",
                        "10th percentile of devices",
                        "gain over global of the median device, points",
                        "10th percentile of gains",
                        "better off",
                    ),
                    *rows,
                ]
            ],
            meaning=" ".join(_words(skew, gains, tails) for skew in SKEWS),
            verdicts=[
                Verdict(
                    target=f"{NAMES[kind]} better than the global model for the median device, {SKEWS[skew]}",
                    found=f"{said(gain)} points; 10th percentile of devices {100 * tails[skew, kind]:.2f} %, "
                    f"global {100 * max(tails[skew, each] for each in GLOBALS):.2f} %",
                    outcome=outcome_of(gain.low > 0, gain.mean > 0),
                )
                for (skew, kind), gain in gains.items()
            ],
            picture="gains of the median device with their intervals, and the accuracy of all devices in order",
        )

    def draw(self, found: Found, axes: Sequence[Any]) -> None:
        """Draw the gains with their intervals, and the devices' accuracies in order."""
        gains = {
            f"{SKEWS[skew]}: {name}": _gain(found, skew, kind)
            for skew in SKEWS
            for kind, name in NAMES.items()
            if kind not in GLOBALS
        }
        draw_intervals(axes[0], gains, x="gain of the median device over the global model, points")
        for skew, style in zip(SKEWS, ("-", "--"), strict=True):
            for (kind, name), colour in zip(NAMES.items(), COLOURS, strict=False):
                values = sorted(each for of_run in _accuracies(found, skew, kind).values() for each in of_run)
                shares = [(place + 0.5) / len(values) for place in range(len(values))]
                label = f"{SKEWS[skew]}: {name}"
                axes[1].plot(shares, values, style, color=colour, label=label, linewidth=1.2)
        axes[1].set_xlabel("share of devices, all seeds and folds")
        axes[1].set_ylabel("accuracy on a device's own")
        axes[1].legend(frameon=False, fontsize=7)

    def _row(self, found: Found, skew: Skew, kind: str) -> tuple[str, ...]:
        values = (f"{100 * _mean_quantile(found, skew, kind, share):.2f} %" for share in (0.5, 0.1))
        if kind in GLOBALS:
            return SKEWS[skew], NAMES[kind], *values, "", "", ""
        gains = (said(_gain(found, skew, kind, share)) for share in (0.5, 0.1))
        return SKEWS[skew], NAMES[kind], *values, *gains, f"{_share(found, skew, kind):.0%}"


def _words(skew: Skew, gains: Mapping[tuple[Skew, str], Interval], tails: Mapping[tuple[Skew, str], float]) -> str:
    kinds = [kind for of, kind in gains if of == skew]
    helped = [NAMES[kind] for kind in kinds if gains[skew, kind].low > 0]
    lower = [NAMES[kind] for kind in kinds if tails[skew, kind] < max(tails[skew, each] for each in GLOBALS)]
    harmed = [NAMES[kind] for kind in kinds if gains[skew, kind].high < 0]
    said_of = [f"better off with {_listed(helped)}"] if helped else []
    said_of += [f"worse off with {_listed(harmed)}"] if harmed else []
    median = " and ".join(said_of) or "not surely better or worse off with any"
    tail = f"; at the tenth percentile of devices {_listed(lower)} {_is(lower)} worse" if lower else ""
    return f"On devices with {SKEWS[skew]}, the median device is {median}{tail}."


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _is(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _accuracies(found: Found, skew: Skew, kind: str) -> dict[tuple[int, int], list[float]]:
    return {
        (run.seed, run.fold): cast("list[float]", numbers["accuracy"]) for run, numbers in found.of(f"{skew} {kind}")
    }


def _gains(found: Found, skew: Skew, kind: str) -> dict[tuple[int, int], list[float]]:
    """Return what each device gains over the better global model, in points, by seed and fold."""
    base_kind = max(GLOBALS, key=lambda each: _mean_quantile(found, skew, each, 0.5))
    mine, base = _accuracies(found, skew, kind), _accuracies(found, skew, base_kind)
    return {at: [100 * (one - other) for one, other in zip(mine[at], base[at], strict=True)] for at in mine}


def _gain(found: Found, skew: Skew, kind: str, share: float = 0.5) -> Interval:
    """Return a quantile over devices of their gains.

    A seed deals anew, so that it is a sample of its own, while its folds are parts of the same devices: the mean over
    folds counts, once a seed.
    """
    of_runs = {at: quantile(gains, share) for at, gains in _gains(found, skew, kind).items()}
    seeds = sorted({seed for seed, _ in of_runs})
    if len(seeds) == 1:
        return over_folds(of_runs, n_folds=N_FOLDS)
    return interval_of([statistics.fmean(value for (of, _), value in of_runs.items() if of == seed) for seed in seeds])


def _mean_quantile(found: Found, skew: Skew, kind: str, share: float) -> float:
    return statistics.fmean(quantile(values, share) for values in _accuracies(found, skew, kind).values())


def _share(found: Found, skew: Skew, kind: str) -> float:
    gains = [gain for of_run in _gains(found, skew, kind).values() for gain in of_run]
    return sum(gain > 0 for gain in gains) / len(gains)


case = Personal()
