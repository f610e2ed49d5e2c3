"""Drift: fleets in which local training pulls the model apart, and what SCAFFOLD, FedDyn, FedNova and FedProx do to it.

SCAFFOLD is Karimireddy et al. (ICML 2020, arXiv 1910.06378), FedDyn Acar et al. (ICLR 2021, arXiv 2111.04263), FedNova
Wang et al. (NeurIPS 2020, arXiv 2007.07481), FedProx Li et al. (MLSys 2020, arXiv 1812.06127).
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from results.case import Found, Numbers, Run, Scale, Section, Verdict, outcome_of
from results.federated import federate, scenario_from
from results.intervals import Interval, interval_of
from results.page import said
from results.pictures import draw_lines
from results.skewed_digits import Deal, SkewedDigits

__all__ = ["case"]

DECAY = 1e-3
BATCH = 20
NAMES = {"fedavg": "FedAvg", "scaffold": "SCAFFOLD", "feddyn": "FedDyn", "fednova": "FedNova", "fedprox": "FedProx"}
PULLS: Mapping[str, Sequence[float]] = {"feddyn": (0.03, 0.1), "fedprox": (0.1, 1.0)}
"""α of FedDyn, µ of FedProx."""
SETTLED = 5
"""Last rounds over which accuracy is averaged, for it goes up and down where few devices take part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """A fleet that drifts.

    Args:
        title: what is hard about it.
        text: how it is made.
        deal: of the digits.
        n_devices: of the fleet; all of one class, unless some are slow.
        cohort: devices a round.
        rounds: of a run.
        rates: learning rates of the grid, ascending.
        training: keys of the settings.
        n_slow: of the devices, the last ones: each step takes them fifty times as long.
        algorithms: that are compared with FedAvg.
    """

    title: str
    text: str
    deal: Deal
    n_devices: int
    cohort: int
    rounds: int
    rates: Sequence[float]
    training: Mapping[str, Any]
    n_slow: int = 0
    algorithms: Sequence[str]


FLEETS = {
    "passes": Fleet(
        title="many passes",
        text="Ten devices with two digits each, all of which take part and go twenty times over their images, so that "
        "each ends near its own optimum.",
        deal="shards",
        n_devices=10,
        cohort=10,
        rounds=30,
        rates=(0.00316, 0.01, 0.0316, 0.1, 0.316),
        training={"epochs": 20},
        algorithms=("scaffold", "feddyn"),
    ),
    "steps": Fleet(
        title="unequal steps",
        text="Ten devices with two digits each and a second to train in: five take a hundred steps, the others two.",
        deal="shards",
        n_devices=10,
        cohort=10,
        rounds=200,
        rates=(0.00316, 0.01, 0.0316, 0.1, 0.316),
        training={"epochs": 1000, "max_seconds": 1.0},
        n_slow=5,
        algorithms=("fednova", "fedprox"),
    ),
    "few": Fleet(
        title="few devices a round",
        text="Twenty devices with two digits each, two of which a round go twenty times over their images.",
        deal="shards",
        n_devices=20,
        cohort=2,
        rounds=50,
        rates=(0.00316, 0.01, 0.0316, 0.1, 0.316),
        training={"epochs": 20},
        algorithms=("fedprox",),
    ),
}


class Drift:
    """See `Case`."""

    title = "Drift: SCAFFOLD, FedDyn, FedNova and FedProx against FedAvg"
    place = 40
    sources: Sequence[str] = ()

    def runs(self, scale: Scale) -> Sequence[Run]:
        """Every algorithm of every fleet at every rate and pull; quick: at one of each, with a fifth of the rounds."""
        return [
            Run(
                case="drift",
                arm=f"{fleet} {algorithm}",
                seed=seed,
                options={"rate": rate, **pull, **({"shrink": 5.0} if scale.is_quick else {})},
            )
            for fleet, each in FLEETS.items()
            for algorithm in ("fedavg", *each.algorithms)
            for rate in (each.rates[2:3] if scale.is_quick else each.rates)
            for pull in self._pulls(algorithm, is_quick=scale.is_quick)
            for seed in scale.seeds
        ]

    def compute(self, run: Run) -> Numbers:
        """Return the accuracy after each round, in thousandths, and the loss on all training data after the last."""
        name, algorithm = run.arm.split()
        fleet = FLEETS[name]
        training = {
            **fleet.training,
            "batch_size": BATCH,
            "codec": "float32",
            "learning_rate": run.options["rate"],
            **_named(algorithm, run),
        }
        fast = {"count": fleet.n_devices - fleet.n_slow, "class": "fast"}
        slow = {"slow": {"count": fleet.n_slow, "class": "slow"}} if fleet.n_slow else {}
        changes = {
            "seed": run.seed,
            "run.task": "results.skewed_digits:SkewedDigits",
            "run.training": training,
            "run.server": {"normalize": "steps" if algorithm == "fednova" else "none"},
            "run.round": {"report_goal": fleet.cohort, "over_selection": 1.0, "quorum": 1.0},
            "run.stop": {
                "metric": "accuracy",
                "rounds": max(SETTLED, int(fleet.rounds / run.options.get("shrink", 1))),
            },
            "run.transfer": {"check_in_interval_s": 5, "reconnect_window_s": 1},
            "classes": {"fast": {"seconds_per_batch": 0.01}, "slow": {"seconds_per_batch": 0.5}},
            "devices": {"fast": fast, **slow},
        }
        task = SkewedDigits(seed=run.seed, deal=fleet.deal, hidden=0, decay=DECAY)
        found = federate(scenario_from(None, changes), task)
        curve = found.curve("accuracy")
        return {
            "accuracy": [round(1000 * each) for each in curve],
            "settled": statistics.fmean(curve[-SETTLED:]),
            "objective": found.curve("objective")[-1],
        }

    def section(self, found: Found) -> Section:
        """Compare at the best rate of each, and at every common rate."""
        best_rows, rate_rows, verdicts, words = [], [], [], []
        rates = sorted({rate for name in FLEETS for rate in _rates(found, name)})
        for name, fleet in FLEETS.items():
            base = _best(found, f"{name} fedavg")
            best_rows.append(
                (fleet.title, "FedAvg", _where(found, name, base), *_values(found, f"{name} fedavg", base), "")
            )
            for algorithm in fleet.algorithms:
                arm = f"{name} {algorithm}"
                mine = _best(found, arm)
                gain = _gain(found, arm, mine, f"{name} fedavg", base)
                best_rows.append(
                    (fleet.title, NAMES[algorithm], _where(found, name, mine), *_values(found, arm, mine), said(gain))
                )
                at = _at_rates(found, name, algorithm)
                cells = (said(at[rate]) if rate in at else "" for rate in rates)
                rate_rows.append((f"{fleet.title}: {NAMES[algorithm]}", *cells))
                verdicts.append(_verdict(fleet, algorithm, gain, at))
                words.append(_words(fleet, algorithm, gain, at))
        return Section(
            text=[
                "Softmax regression on the digits, dealt unevenly, in three fleets that drift. "
                + " ".join(f"*{fleet.title.capitalize()}*: {fleet.text}" for fleet in FLEETS.values())
                + " Every algorithm runs at every learning rate of a fleet's grid, FedDyn and FedProx with two pulls "
                f"each; shown is the accuracy on the common test images, the mean of the last {SETTLED} rounds, and "
                "the mean loss over all training images at the end. The second table has the gain over FedAvg at one "
                "and the same rate, with the better pull: what an algorithm gives a fleet whose rate is as it is.",
            ],
            tables=[
                [
                    ("fleet", "algorithm", "best at", "accuracy", "training loss", "gain over FedAvg, points"),
                    *best_rows,
                ],
                [
                    ("gain over FedAvg in points", *(f"rate {rate:g}" for rate in rates)),
                    *rate_rows,
                ],
            ],
            meaning=" ".join(words),
            verdicts=verdicts,
            picture="accuracy over rounds where devices make many passes, and over the rate in the other fleets",
        )

    def draw(self, found: Found, axes: Sequence[Any]) -> None:
        """Draw the curves of the first fleet, and accuracy over the rate of the others."""
        arms = {NAMES[each]: f"passes {each}" for each in ("fedavg", *FLEETS["passes"].algorithms)}
        draw_lines(
            axes[0],
            {title: _curve(found, arm, _best(found, arm)) for title, arm in arms.items()},
            x="round, many passes",
            y="accuracy, mean over seeds",
        )
        axes[0].set_ylim(0.8, 1.0)
        lines = {}
        for name in ("steps", "few"):
            for algorithm in ("fedavg", *FLEETS[name].algorithms):
                lines[f"{NAMES[algorithm]}, {FLEETS[name].title}"] = [
                    (rate, statistics.fmean(_settled(found, f"{name} {algorithm}", {"rate": rate, **pull})))
                    for rate in _rates(found, name)
                    for pull in [_best_pull(found, f"{name} {algorithm}", rate)]
                ]
        draw_lines(axes[1], lines, x="learning rate", y="accuracy, last rounds")
        axes[1].set_xscale("log")

    def _pulls(self, algorithm: str, *, is_quick: bool) -> Sequence[Mapping[str, float]]:
        pulls = PULLS.get(algorithm, ())[: 1 if is_quick else None]
        return [{"pull": pull} for pull in pulls] or [{}]


def _rates(found: Found, fleet: str) -> list[float]:
    return found.options(f"{fleet} fedavg", "rate")


def _where(found: Found, fleet: str, options: Mapping[str, float]) -> str:
    rates = _rates(found, fleet)
    edge = " (edge of the grid)" if options["rate"] in (rates[0], rates[-1]) and len(rates) > 1 else ""
    return ", ".join(f"{name} {value:g}{edge if name == 'rate' else ''}" for name, value in options.items())


def _at_rates(found: Found, fleet: str, algorithm: str) -> dict[float, Interval]:
    """Return what an algorithm gains over FedAvg at each rate, with the better pull there."""
    arm, base = f"{fleet} {algorithm}", f"{fleet} fedavg"
    return {
        rate: _gain(found, arm, {"rate": rate, **_best_pull(found, arm, rate)}, base, {"rate": rate})
        for rate in _rates(found, fleet)
    }


def _named(algorithm: str, run: Run) -> dict[str, Any]:
    match algorithm:
        case "fednova":  # a way of the server's
            return {"algorithm": "fedavg"}
        case "fedprox":
            return {"algorithm": algorithm, "mu": run.options["pull"]}
        case "feddyn":
            return {"algorithm": algorithm, "alpha": run.options["pull"]}
    return {"algorithm": algorithm}


def _settled(found: Found, arm: str, options: Mapping[str, float]) -> list[float]:
    return [cast(float, numbers["settled"]) for _, numbers in found.of(arm, **options)]


def _best(found: Found, arm: str) -> dict[str, float]:
    """Return rate and pull with the highest accuracy over all seeds."""
    settings = [{"rate": rate, **_best_pull(found, arm, rate)} for rate in found.options(arm, "rate")]
    return max(settings, key=lambda options: statistics.fmean(_settled(found, arm, options)))


def _best_pull(found: Found, arm: str, rate: float) -> dict[str, float]:
    pulls = [{"pull": pull} for pull in found.options(arm, "pull")]
    means = [(statistics.fmean(_settled(found, arm, {"rate": rate, **pull})), pull) for pull in pulls]
    return max(means, key=lambda item: item[0])[1] if means else {}


def _gain(
    found: Found, arm: str, options: Mapping[str, float], base: str, base_options: Mapping[str, float]
) -> Interval:
    """Return how many points of accuracy an arm has more, seed by seed."""
    pairs = zip(_settled(found, arm, options), _settled(found, base, base_options), strict=True)
    return interval_of([100 * (mine - theirs) for mine, theirs in pairs])


def _values(found: Found, arm: str, options: Mapping[str, float]) -> tuple[str, str]:
    losses = [numbers["objective"] for _, numbers in found.of(arm, **options)]
    loss = statistics.fmean(cast("list[float]", losses)) if None not in losses else None
    accuracy = statistics.fmean(_settled(found, arm, options))
    return f"{100 * accuracy:.2f} %", "not finite" if loss is None else f"{loss:.4f}"


def _verdict(fleet: Fleet, algorithm: str, gain: Interval, at: Mapping[float, Interval]) -> Verdict:
    rate = max(at, key=lambda each: at[each].low)  # where it is surest
    is_sure, is_sure_somewhere = gain.low > 0, at[rate].low > 0
    found = f"{said(gain)} points at the best rate of each, {said(at[rate])} at rate {rate:g}"
    return Verdict(
        target=f"{NAMES[algorithm]} earns its place, {fleet.title}",
        found=found,
        outcome=outcome_of(is_sure, is_sure_somewhere),
    )


def _words(fleet: Fleet, algorithm: str, gain: Interval, at: Mapping[float, Interval]) -> str:
    name = NAMES[algorithm]
    if gain.low > 0:
        return f"With {fleet.title}, {name} at its best rate is better than FedAvg at any of the grid."
    helped = [f"{rate:g}" for rate, each in at.items() if each.low > 0]
    if not helped:
        return f"With {fleet.title}, {name} does not help."
    return (
        f"With {fleet.title}, {name} helps at rate {' and '.join(helped)}; a FedAvg whose rate is chosen for this very "
        "fleet does as well."
    )


def _curve(found: Found, arm: str, options: Mapping[str, float]) -> list[tuple[float, float]]:
    curves = [cast("list[float]", numbers["accuracy"]) for _, numbers in found.of(arm, **options)]
    return [(at + 1.0, statistics.fmean(values) / 1000) for at, values in enumerate(zip(*curves, strict=True))]


case = Drift()
