"""Codecs by link: seconds until a fleet of thin and fast links has learned, against everybody sending float32."""

import itertools
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

from examples.linear_digits import wide
from results.case import Found, Numbers, Run, Scale, Section, Verdict, listed
from results.federated import federate, scenario_from
from results.intervals import ratio_of
from results.page import said
from results.pictures import draw_lines
from results.sources import ROOT
from shared.codecs import CODECS

__all__ = ["case"]

TARGET = 0.93
ARMS = {"float32": "everybody float32", "auto": 'training.codec = "auto"'}
STUDIES = "examples/studies"
ASKED = 1 / 3
"""Of float32's virtual time, at most."""


class Links:
    """See `Case`."""

    title = "Codecs by link"
    place = 55
    sources: Sequence[str] = tuple(f"{STUDIES}/codecs-{arm}.toml" for arm in ARMS)

    def runs(self, scale: Scale) -> Sequence[Run]:
        """Both scenarios with every seed; quick: to three rounds."""
        rounds = 3.0 if scale.is_quick else 100.0
        return [
            Run(case="links", arm=arm, seed=seed, options={"rounds": rounds}) for arm in ARMS for seed in scale.seeds
        ]

    def compute(self, run: Run) -> Numbers:
        """Return virtual seconds, all bytes up and accuracy after each round, and the updates that counted by codec."""
        path = ROOT / STUDIES / f"codecs-{run.arm}.toml"
        changes = {"seed": run.seed, "run.stop.rounds": int(run.options["rounds"])}
        found = federate(scenario_from(path, changes), wide, path=path)
        return {
            "seconds": [round(each, 1) for each in found.seconds],
            "all": [each.bytes_up for each in found.rounds],
            "accuracy": [round(1000 * each) for each in found.curve("accuracy")],
            **{f"n_{name}": n for name, n in found.codecs.items()},
        }

    def section(self, found: Found) -> Section:
        """Compare the seconds to the target by seed."""
        seconds = {arm: [listed(numbers, "seconds")[-1] for _, numbers in found.of(arm)] for arm in ARMS}
        ratio = ratio_of(seconds["auto"], seconds["float32"])
        rows = [
            (
                ARMS[arm],
                f"{statistics.fmean(seconds[arm]):.0f}",
                ", ".join(f"{each:.0f}" for each in seconds[arm]),
                f"{statistics.fmean(sum(listed(numbers, 'all')) for _, numbers in found.of(arm)) / 1e6:.0f}",
                _mixture([numbers for _, numbers in found.of(arm)]),
            )
            for arm in ARMS
        ]
        is_there = all(listed(numbers, "accuracy")[-1] >= 1000 * TARGET for arm in ARMS for _, numbers in found.of(arm))
        words = said(ratio, ".2f")
        return Section(
            text=[
                "Fifty devices on links of 8 kB/s, 40 kB/s, 200 kB/s, 1 MB/s and 10 MB/s up, ten on each, and ten "
                "times that down; softmax regression on the digits and random features of them, a model of 200 kB; a "
                "round closes with all 50, or after two minutes with 45 ([studies](studies.md#codecs-by-link)). Shown "
                f"is what it takes to {100 * TARGET:g} % accuracy, in seconds of virtual time.",
            ],
            tables=[[("", "seconds, mean", "by seed", "MB up, mean", "updates by codec"), *rows]],
            meaning=f"With each device sending as its link can bear, the fleet needs {words} times the time (geometric "
            f"mean of the ratios by seed, {ratio.n} of them)."
            + ("" if is_there else f" Not every run reached {100 * TARGET:g} %."),
            verdicts=[
                Verdict(
                    target="codecs by link: at most 1/3 of float32's virtual time",
                    found=words,
                    outcome="met" if is_there and ratio.mean <= ASKED else "missed",
                )
            ],
            picture="accuracy over virtual time, and over bytes up, first seed",
        )

    def draw(self, found: Found, axes: Sequence[Any]) -> None:
        """Draw the first seed's accuracy over time and over bytes."""
        over_seconds, over_bytes = {}, {}
        for arm, name in ARMS.items():
            _, numbers = found.of(arm)[0]
            accuracy = [each / 1000 for each in listed(numbers, "accuracy")]
            sent = [each / 1e6 for each in itertools.accumulate(listed(numbers, "all"))]
            over_seconds[name] = list(zip(listed(numbers, "seconds"), accuracy, strict=True))
            over_bytes[name] = list(zip(sent, accuracy, strict=True))
        draw_lines(axes[0], over_seconds, x="virtual seconds", y="accuracy")
        draw_lines(axes[1], over_bytes, x="MB up", y="accuracy")


def _mixture(runs: Sequence[Numbers]) -> str:
    """Return the shares of the codecs over all runs, the commonest first."""
    total = Counter[str]()
    for numbers in runs:
        total.update({name: int(cast(float, numbers.get(f"n_{name}", 0))) for name in CODECS})
    return ", ".join(f"{name} {n / total.total():.0%}" for name, n in total.most_common() if n)


case = Links()
