"""Bytes on the way up until the model is as good: every codec against float32."""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from results.case import Found, Numbers, Run, Scale, Section, Verdict, listed, outcome_of
from results.federated import federate, scenario_from
from results.intervals import Interval, interval_of, ratio_of
from results.page import said
from results.pictures import draw_lines
from results.skewed_digits import SkewedDigits
from shared.codecs import CODECS

__all__ = ["case"]

N_DEVICES = 20
TARGET = 0.93
MOST_ROUNDS = SETTLED_ROUNDS = 40
"""After so many rounds the accuracies are compared, whatever was reached before."""
RATE, EPOCHS, BATCH, HIDDEN = 0.05, 2, 10, 2048
N_PARAMS = 65 * HIDDEN + (HIDDEN + 1) * 10
ASKED: Mapping[str, float | None] = MappingProxyType(
    {"float32": None, "float16": None, "int8": 1 / 3.8, "one-bit": 1 / 25, "top-1-percent": 1 / 30}
)
"""What is asked of each, as a share of float32's bytes."""


class BytesUp:
    """See `Case`."""

    title = "Bytes up to 93 %"
    place = 50
    sources: Sequence[str] = ()

    def runs(self, scale: Scale) -> Sequence[Run]:
        """Every codec with every seed; quick: a few rounds of two of them."""
        codecs = ("float32", "int8") if scale.is_quick else tuple(ASKED)
        rounds = 4.0 if scale.is_quick else float(MOST_ROUNDS)
        return [
            Run(case="bytes_up", arm=codec, seed=seed, options={"rounds": rounds})
            for codec in codecs
            for seed in scale.seeds
        ]

    def compute(self, run: Run) -> Numbers:
        """Return after each round accuracy in thousandths, bytes of updates that counted so far, and all bytes up."""
        changes = {
            "seed": run.seed,
            "run.task": "results.skewed_digits:SkewedDigits",
            "run.training": {"learning_rate": RATE, "epochs": EPOCHS, "batch_size": BATCH, "codec": run.arm},
            "run.round": {"report_goal": N_DEVICES, "over_selection": 1.0, "quorum": 1.0},
            "run.stop": {"metric": "accuracy", "rounds": int(run.options["rounds"])},
            "run.transfer": {"check_in_interval_s": 5, "reconnect_window_s": 1},
            "classes": {"board": {"seconds_per_batch": 0.02}},
            "devices": {"board": {"count": N_DEVICES}},
        }
        found = federate(scenario_from(None, changes), SkewedDigits(seed=run.seed, deal="shards", hidden=HIDDEN))
        size = CODECS[run.arm].encoded_bytes(N_PARAMS)
        counted = list(itertools.accumulate(each.counts["accepted"] * size for each in found.rounds))
        arrived = list(itertools.accumulate(each.bytes_up for each in found.rounds))
        return {"accuracy": [round(1000 * each) for each in found.curve("accuracy")], "bytes": counted, "all": arrived}

    def section(self, found: Found) -> Section:
        """Bytes to the target, as a share of float32's with the same seed, and the accuracy after the same rounds."""
        plain = _to_target(found, "float32")
        rows, verdicts = [], []
        for codec, asked in ASKED.items():
            mine = _to_target(found, codec)
            pairs = [(a, b) for a, b in zip(mine, plain, strict=False) if a is not None and b is not None]
            if not mine:
                continue
            n_reached = sum(each is not None for each in mine)
            ratio = ratio_of([a.n_bytes for a, _ in pairs], [b.n_bytes for _, b in pairs]) if pairs else None
            whole = ratio_of([a.n_all for a, _ in pairs], [b.n_all for _, b in pairs]) if pairs else None
            rounds = statistics.fmean([a.n_rounds for a, _ in pairs]) if pairs else math.nan
            behind = interval_of(
                [100 * (a - b) for a, b in zip(_settled(found, codec), _settled(found, "float32"), strict=False)]
            )
            share = _share(ratio)
            rows.append((codec, f"{n_reached} of {len(mine)}", f"{rounds:.1f}", share, _share(whole), said(behind)))
            if asked is not None:
                is_there = whole is not None and n_reached == len(mine) and whole.mean <= asked
                is_sure = whole is not None and (whole.high <= asked or not whole.is_known)
                verdicts.append(
                    Verdict(
                        target=f"{codec}: at most 1/{1 / asked:g} of float32's bytes up to {100 * TARGET:g} %",
                        found=f"{_share(whole)} of all that devices sent, {share} of encoded updates; "
                        f"{said(behind)} points of accuracy after {SETTLED_ROUNDS} rounds",
                        outcome=outcome_of(is_there and is_sure, is_there),
                    )
                )
        return Section(
            text=[
                f"A perceptron with {HIDDEN} hidden units, {N_PARAMS:,} parameters, on the "
                f"digits; {N_DEVICES} devices with two digits each take part in every round with two passes over their "
                "images. "
                "Bytes are those of encoded updates that counted, and in a column of their own all that devices sent, "
                "which is about 1.2 kB an update more. The last column is the accuracy after "
                f"{SETTLED_ROUNDS} rounds less that of float32 with the same seed, in points, whatever it had cost.",
            ],
            tables=[
                [
                    (
                        "codec",
                        f"reached {100 * TARGET:g} %",
                        "rounds",
                        "bytes, of float32's",
                        "with all else",
                        "accuracy",
                    ),
                    *rows,
                ]
            ],
            meaning="What a codec loses in accuracy a round it may win many times over in bytes: the table says how "
            "many more rounds each needs, and how much less they cost.",
            verdicts=verdicts,
            picture="accuracy over bytes up, and over rounds",
        )

    def draw(self, found: Found, axes: Sequence[Any]) -> None:
        """Draw accuracy over bytes and over rounds."""
        over_bytes, over_rounds = {}, {}
        for codec in ASKED:
            runs = [numbers for _, numbers in found.of(codec)]
            if runs:
                accuracy = [
                    statistics.fmean(each) / 1000 for each in zip(*(listed(r, "accuracy") for r in runs), strict=False)
                ]
                n_bytes = [
                    statistics.fmean(each) / 1e6 for each in zip(*(listed(r, "bytes") for r in runs), strict=False)
                ]
                over_bytes[codec] = list(zip(n_bytes, accuracy, strict=False))
                over_rounds[codec] = [(at + 1.0, value) for at, value in enumerate(accuracy)]
        draw_lines(axes[0], over_bytes, x="MB up", y="accuracy, mean over seeds")
        draw_lines(axes[1], over_rounds, x="round", y="accuracy, mean over seeds")
        axes[0].set_xscale("log")
        for each in axes:
            each.set_ylim(0.5, 1.0)


class _Reached(NamedTuple):
    n_rounds: int
    n_bytes: float
    n_all: float


def _to_target(found: Found, codec: str) -> list[_Reached | None]:
    """Return what it took each seed to reach the target first; None: it does not."""
    places: list[_Reached | None] = []
    for _, numbers in found.of(codec):
        accuracy = listed(numbers, "accuracy")
        at = next((place for place, value in enumerate(accuracy) if value >= 1000 * TARGET), None)
        places.append(
            None if at is None else _Reached(at + 1, listed(numbers, "bytes")[at], listed(numbers, "all")[at])
        )
    return places


def _share(ratio: Interval | None) -> str:
    """Return a ratio as a part of one, with its interval."""
    if ratio is None:
        return "–"
    mean = f"1/{1 / ratio.mean:.1f}"
    return f"{mean} [1/{1 / ratio.low:.1f}, 1/{1 / ratio.high:.1f}]" if ratio.is_known else f"{mean} [one run]"


def _settled(found: Found, codec: str) -> list[float]:
    return [listed(numbers, "accuracy")[:SETTLED_ROUNDS][-1] / 1000 for _, numbers in found.of(codec)]


case = BytesUp()
