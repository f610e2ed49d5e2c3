"""Rounds to 90 % on non-IID digits: one gradient a round (FedSGD) against five local passes (FedAvg).

The comparison of McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data" (AISTATS
2017, arXiv 1602.05629), table 2, with their pathological deal, on a smaller data set.
"""

import statistics
from collections.abc import Sequence
from typing import Any, cast

from results.case import Found, Numbers, Run, Scale, Section, Verdict
from results.federated import federate, scenario_from
from results.intervals import ratio_of
from results.page import said
from results.pictures import draw_lines
from results.skewed_digits import SkewedDigits

__all__ = ["case"]

TARGET = 0.90
N_DEVICES, COHORT = 20, 10
EPOCHS, BATCH = 5, 10
CAP = 400
"""Rounds after which a run gives up."""
RATES = (0.01, 0.0215, 0.0464, 0.1, 0.215, 0.464, 1.0)
"""Three a decade, for both."""
ARMS = {"fedsgd": "FedSGD", "fedavg": f"FedAvg, {EPOCHS} passes"}


class Rounds:
    """See `Case`."""

    title = "Rounds to 90 % on non-IID digits"
    place = 20
    sources: Sequence[str] = ()

    def runs(self, scale: Scale) -> Sequence[Run]:
        """Both arms at every rate; quick: at three rates, with a tenth of the rounds."""
        rates, cap = (RATES[2:7:2], CAP // 10) if scale.is_quick else (RATES, CAP)
        return [
            Run(case="rounds", arm=arm, seed=seed, options={"rate": rate, "cap": cap})
            for arm in ARMS
            for rate in rates
            for seed in scale.seeds
        ]

    def compute(self, run: Run) -> Numbers:
        """Return `rounds` to the target, None where the cap came first, and the accuracies of the first of them."""
        training: dict[str, Any] = {"algorithm": run.arm, "learning_rate": run.options["rate"], "codec": "float32"}
        if run.arm == "fedavg":
            training |= {"epochs": EPOCHS, "batch_size": BATCH}
        changes = {
            "seed": run.seed,
            "run.task": "results.skewed_digits:SkewedDigits",
            "run.training": training,
            "run.round": {"report_goal": COHORT, "over_selection": 1.0, "quorum": 1.0},
            "run.stop": {"metric": "accuracy", "at_least": TARGET, "rounds": int(run.options["cap"])},
            "run.transfer": {"check_in_interval_s": 5, "reconnect_window_s": 1},
            "devices.device.count": N_DEVICES,
        }
        curve = federate(scenario_from(None, changes), SkewedDigits(seed=run.seed)).curve("accuracy")
        is_there = max(curve, default=0.0) >= TARGET
        return {"rounds": len(curve) if is_there else None, "accuracy": [round(each, 3) for each in curve[:100]]}

    def section(self, found: Found) -> Section:
        """Compare both at the rate at which each needs the fewest rounds."""
        best = {arm: self._best(found, arm) for arm in ARMS}
        counts = {arm: self._counts(found, arm, best[arm]) for arm in ARMS}
        ratio = ratio_of(counts["fedsgd"], counts["fedavg"])
        capped = {arm: sum(numbers["rounds"] is None for _, numbers in found.of(arm, rate=best[arm])) for arm in ARMS}
        is_capped = any(capped.values())
        rows = [
            (
                ARMS[arm],
                f"{best[arm]:g}{self._edge(found, arm, best[arm])}",
                f"{statistics.fmean(counts[arm]):.1f}",
                ", ".join(f"{each:.0f}" for each in counts[arm]),
                str(capped[arm]),
            )
            for arm in ARMS
        ]
        words, n_rates = said(ratio, ".2f"), len(found.options("fedavg", "rate"))
        return Section(
            text=[
                f"{N_DEVICES} devices, {COHORT} of them a round. The images are sorted by digit and cut into "
                f"{2 * N_DEVICES} pieces, two of them for each device, so that most devices know two digits (the "
                "pathological deal of McMahan et al., 2017). The model is a 64-64-10 perceptron. FedSGD sends one "
                f"gradient over all of a device's images; FedAvg goes {EPOCHS} times over them in batches of {BATCH}. "
                f"Both are shown at the best of {n_rates} learning rates, three a decade. A seed decides the deal, the "
                "first model and who is asked. Counted is the first round whose model reads 90 % of the test images; "
                f"a run that is not there after {self._cap(found)} rounds counts as if it then were.",
            ],
            tables=[[("", "best rate", "rounds to 90 %, mean", "by seed", "stopped at the cap"), *rows]],
            meaning=f"FedSGD needs {words} times as many rounds as FedAvg with {EPOCHS} local passes (geometric mean "
            f"of the ratios by seed, {ratio.n} of them). "
            + ("Some of these runs were stopped at the cap, so that it is a bound. " if is_capped else "")
            + "The ratios in the paper are larger, on models and data that need hundreds of rounds.",
            verdicts=[Verdict(target="ratio of rounds with its interval", found=words, outcome="reported")],
            picture="rounds to 90 % over the learning rate, and accuracy over rounds at the best rate",
        )

    def draw(self, found: Found, axes: Sequence[Any]) -> None:
        """Draw mean rounds over the rate, and the mean accuracy at the best rate."""
        rates = {
            ARMS[arm]: [(rate, statistics.fmean(self._counts(found, arm, rate))) for rate in found.options(arm, "rate")]
            for arm in ARMS
        }
        draw_lines(axes[0], rates, x="learning rate", y="rounds to 90 %, mean over seeds")
        axes[0].set_xscale("log")
        axes[0].set_yscale("log")
        curves = {ARMS[arm]: self._curve(found, arm, self._best(found, arm)) for arm in ARMS}
        draw_lines(axes[1], curves, x="round", y="accuracy, mean over seeds")
        axes[1].axhline(TARGET, color="#999999", linestyle="--", linewidth=0.8)

    def _best(self, found: Found, arm: str) -> float:
        return min(found.options(arm, "rate"), key=lambda rate: statistics.fmean(self._counts(found, arm, rate)))

    def _counts(self, found: Found, arm: str, rate: float) -> list[float]:
        """Return the rounds by seed; what was stopped at the cap counts as the cap."""
        return [
            run.options["cap"] if numbers["rounds"] is None else cast(float, numbers["rounds"])
            for run, numbers in found.of(arm, rate=rate)
        ]

    def _edge(self, found: Found, arm: str, rate: float) -> str:
        return " (at the edge of the grid)" if rate in (min(r := found.options(arm, "rate")), max(r)) else ""

    def _cap(self, found: Found) -> int:
        return int(found.options("fedavg", "cap")[0])

    def _curve(self, found: Found, arm: str, rate: float) -> list[tuple[float, float]]:
        """Return the mean over seeds; a run that is over stays where it was."""
        curves = [cast("list[float]", numbers["accuracy"]) for _, numbers in found.of(arm, rate=rate)]
        longest = max(map(len, curves))
        filled = [[*curve, *[curve[-1]] * (longest - len(curve))] for curve in curves]
        return [(at + 1.0, statistics.fmean(values)) for at, values in enumerate(zip(*filled, strict=True))]


case = Rounds()
