"""Personal models against the global one, on devices that differ in labels and in their cameras.

FedBN is Li et al. (ICLR 2021, arXiv 2102.07623), FedPer Arivazhagan et al. (arXiv 1912.00818), FedRep Collins et al.
(ICML 2021, arXiv 2102.07078).
"""

import statistics
from collections.abc import Sequence
from typing import Any, cast

from results.case import N_FOLDS, Found, Numbers, Run, Scale, Section, Verdict
from results.federated import federate, scenario_from
from results.intervals import Interval, interval_of, over_folds, quantile
from results.page import said
from results.personal_digits import BRIGHTNESSES, CONCENTRATION, CONTRASTS, Remembering, digits_task
from results.pictures import draw_intervals
from shared.task import Client, ClientId

__all__ = ["case"]

N_DEVICES, ROUNDS, EPOCHS, BATCH, RATE = 10, 20, 3, 16, 0.1
GLOBAL = "global"
NAMES = {GLOBAL: "the global model", "fedbn": "FedBN", "fedper": "FedPer", "fedrep": "FedRep"}
QUICK_ROUNDS = 3


class Personal:
    """See `Case`."""

    title = "Personal models on skewed devices"
    place = 30
    sources: Sequence[str] = ("results/personal_digits.py",)

    def runs(self, scale: Scale) -> Sequence[Run]:
        """Every kind of model for every seed and fold."""
        rounds = QUICK_ROUNDS if scale.is_quick else ROUNDS
        return [
            Run(case="personal", arm=kind, seed=seed, fold=fold, options={"rounds": rounds})
            for seed in scale.seeds
            for fold in scale.folds
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
        task, scenario = Remembering(digits_task(run.arm, seed=run.seed, fold=run.fold)), scenario_from(None, changes)
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
        """Compare each kind with the global model, device by device."""
        gains = {kind: _gain(found, kind) for kind in NAMES if kind != GLOBAL}
        rows = [
            (
                name,
                f"{100 * _mean_quantile(found, kind, 0.5):.2f} %",
                f"{100 * _mean_quantile(found, kind, 0.1):.2f} %",
                "" if kind == GLOBAL else said(gains[kind]),
                "" if kind == GLOBAL else said(_gain(found, kind, share=0.1)),
                "" if kind == GLOBAL else f"{_share(found, kind):.0%}",
            )
            for kind, name in NAMES.items()
        ]
        n_seeds = len({run.seed for run in found.runs})
        helped = [NAMES[kind] for kind, gain in gains.items() if gain.low > 0]
        tail = {kind: _mean_quantile(found, kind, 0.1) for kind in NAMES}
        lower = [NAMES[kind] for kind in gains if tail[kind] < tail[GLOBAL]]
        return Section(
            text=[
                f"{N_DEVICES} devices, all in each of {int(found.options(GLOBAL, 'rounds')[0])} rounds. The digits "
                f"are dealt by a Dirichlet distribution with concentration {CONCENTRATION}, and each device has a "
                f"camera of its own: a contrast between {CONTRASTS[0]} and {CONTRASTS[1]}, a brightness between "
                f"{BRIGHTNESSES[0]:g} and {BRIGHTNESSES[1]:g}. The network is 64-32-10 with a batch norm. *FedBN* "
                "keeps the norm at home, *FedPer* the head, *FedRep* the head, which it trains first. All have the "
                f"same rate and passes. {n_seeds} seeds, each with a deal of its own, and folds of each device's "
                "images; a device is compared with itself, on what it holds out. As each seed has other devices, it "
                "counts as one sample, by the mean over its folds.",
            ],
            tables=[
                [
                    (
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
            meaning=(
                f"The median device is better off with {' and '.join(helped)} than with the global model. "
                if helped
                else "No personal model is better for the median device. "
            )
            + (
                f"At the tenth percentile of the devices, {' and '.join(lower)} {_is(lower)} less accurate "
                "than the global model."
                if lower
                else "So are the devices at the tenth percentile."
            ),
            verdicts=[
                Verdict(
                    target=f"{NAMES[kind]} better than the global model for the median device",
                    found=f"{said(gain)} points; 10th percentile of devices {100 * tail[kind]:.2f} %, "
                    f"global {100 * tail[GLOBAL]:.2f} %",
                    outcome="met" if gain.low > 0 else "open" if gain.mean > 0 else "missed",
                )
                for kind, gain in gains.items()
            ],
            picture="gains of the median device with their intervals, and the accuracy of all devices in order",
        )

    def draw(self, found: Found, axes: Sequence[Any]) -> None:
        """Draw the gains with their intervals, and the devices' accuracies in order."""
        gains = {name: _gain(found, kind) for kind, name in NAMES.items() if kind != GLOBAL}
        draw_intervals(axes[0], gains, x="gain of the median device over the global model, points")
        for kind, name in NAMES.items():
            values = sorted(each for of_run in _accuracies(found, kind).values() for each in of_run)
            shares = [(place + 0.5) / len(values) for place in range(len(values))]
            axes[1].plot(shares, values, label=name, linewidth=1.4)
        axes[1].set_xlabel("share of devices, all seeds and folds")
        axes[1].set_ylabel("accuracy on a device's own")
        axes[1].legend(frameon=False, fontsize=8)


def _is(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _accuracies(found: Found, kind: str) -> dict[tuple[int, int], list[float]]:
    return {(run.seed, run.fold): cast("list[float]", numbers["accuracy"]) for run, numbers in found.of(kind)}


def _gains(found: Found, kind: str) -> dict[tuple[int, int], list[float]]:
    """Return what each device gains over the global model, in points, by seed and fold."""
    mine, base = _accuracies(found, kind), _accuracies(found, GLOBAL)
    return {at: [100 * (one - other) for one, other in zip(mine[at], base[at], strict=True)] for at in mine}


def _gain(found: Found, kind: str, share: float = 0.5) -> Interval:
    """Return a quantile over devices of their gains.

    A seed deals anew, so that it is a sample of its own, while its folds are parts of the same devices: the mean over
    folds counts, once a seed.
    """
    of_runs = {at: quantile(gains, share) for at, gains in _gains(found, kind).items()}
    seeds = sorted({seed for seed, _ in of_runs})
    if len(seeds) == 1:
        return over_folds(of_runs, n_folds=N_FOLDS)
    return interval_of([statistics.fmean(value for (of, _), value in of_runs.items() if of == seed) for seed in seeds])


def _mean_quantile(found: Found, kind: str, share: float) -> float:
    return statistics.fmean(quantile(values, share) for values in _accuracies(found, kind).values())


def _share(found: Found, kind: str) -> float:
    gains = [gain for of_run in _gains(found, kind).values() for gain in of_run]
    return sum(gain > 0 for gain in gains) / len(gains)


case = Personal()
