"""Poisoned devices: what every rule keeps of the accuracy, under every attack that a scenario can rehearse."""

import statistics
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

from results.case import Found, Numbers, Run, Scale, Section, Verdict
from results.federated import federate, scenario_from
from results.intervals import interval_of
from results.page import said
from results.pictures import draw_lines
from results.skewed_digits import Deal, SkewedDigits

__all__ = ["case"]

N_DEVICES, N_BAD = 20, 4
N_SEEDS, N_ROUNDS = 3, 25
SETTLED = 3
"""Last rounds over which accuracy is averaged."""
WITHIN = 5.0
RATE, EPOCHS, BATCH = 0.05, 2, 10
CONCENTRATION = 0.5
DEALS: Mapping[str, Deal] = MappingProxyType({"alike": "alike", "uneven": "dirichlet", "few": "shards"})
RADIUS = 1.0
"""About the 2-norm of an honest update in the first rounds; later ones are shorter."""
RULES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "mean": {"rule": "mean"},
        "mean, clipped": {"rule": "mean", "clip_norm": RADIUS, "weighting": "uniform"},
        "median": {"rule": "median"},
        "trimmed mean": {"rule": {"name": "trimmed-mean", "byzantine": N_BAD}},
        "Krum": {"rule": {"name": "krum", "byzantine": N_BAD}},
        "multi-Krum": {"rule": {"name": "multi-krum", "byzantine": N_BAD}},
        "Bulyan": {"rule": {"name": "bulyan", "byzantine": N_BAD}},
        "geometric median": {"rule": "geometric-median", "weighting": "uniform"},
        "centered clipping": {"rule": {"name": "centered-clipping", "radius": RADIUS}},
        "mixing, median": {"rule": {"name": "median", "mixing": "nearest", "byzantine": N_BAD}},
        "mixing, trimmed mean": {"rule": {"name": "trimmed-mean", "mixing": "nearest", "byzantine": N_BAD}},
        "mixing, multi-Krum": {"rule": {"name": "multi-krum", "mixing": "nearest", "byzantine": N_BAD}},
    }
)
ATTACKS: Mapping[str, Mapping[str, Any] | None] = MappingProxyType(
    {
        "none": None,
        "sign flip": {"kind": "sign-flip", "strength": 4.0},
        "inner product": {"kind": "inner-product", "strength": 2.0},
        "a little": {"kind": "little", "strength": 1.5},
        "label flip": {"kind": "label-flip"},
        "noise": {"kind": "gaussian", "strength": 10.0},
        "no numbers": {"kind": "nan"},
    }
)
TITLES = {"alike": "data alike", "uneven": "uneven data", "few": "two digits or three a device"}


class Poison:
    """See `Case`."""

    title = "Poisoned devices"
    place = 60
    sources: Sequence[str] = ()

    def runs(self, scale: Scale) -> Sequence[Run]:
        """Every rule under every attack, with each deal of the data; quick: two of each."""
        rules = ("mean", "median") if scale.is_quick else tuple(RULES)
        attacks = ("none", "sign flip") if scale.is_quick else tuple(ATTACKS)
        return [
            Run(
                case="poison",
                arm=f"{deal}/{rule}/{attack}",
                seed=seed,
                options={"rounds": 5.0 if scale.is_quick else N_ROUNDS},
            )
            for deal in DEALS
            for rule in rules
            for attack in attacks
            for seed in scale.seeds[:N_SEEDS]
        ]

    def compute(self, run: Run) -> Numbers:
        """Return the accuracy after each round, in thousandths, and the mean of the last ones."""
        deal, rule, attack = run.arm.split("/")
        group = ATTACKS[attack]
        # an update without numbers is refused: the round closes with the honest ones, and Bulyan has too few for f = 4
        is_refused = attack == "no numbers"
        server = {**RULES[rule]}
        if is_refused and rule == "Bulyan":
            server["rule"] = {"name": "bulyan", "byzantine": 3}
        bad = {"count": N_BAD, "class": "board", **({"attack": group} if group else {})}
        changes = {
            "seed": run.seed,
            "run.task": "results.skewed_digits:SkewedDigits",
            "run.training": {"learning_rate": RATE, "epochs": EPOCHS, "batch_size": BATCH},
            "run.server": server,
            "run.round": {
                "report_goal": N_DEVICES,
                "over_selection": 1.0,
                "quorum": 0.8 if is_refused else 1.0,
                "window_s": {"min": 5, "max": 60},
            },
            "run.stop": {"metric": "accuracy", "rounds": int(run.options["rounds"])},
            "run.transfer": {"check_in_interval_s": 5, "reconnect_window_s": 1},
            "classes": {"board": {"seconds_per_batch": 0.02}},
            "devices": {"good": {"count": N_DEVICES - N_BAD, "class": "board"}, "bad": bad},
        }
        task = SkewedDigits(seed=run.seed, deal=DEALS[deal], concentration=CONCENTRATION, hidden=0)
        curve = federate(scenario_from(None, changes), task).curve("accuracy")
        return {"accuracy": [round(1000 * each) for each in curve], "settled": statistics.fmean(curve[-SETTLED:])}

    def section(self, found: Found) -> Section:
        """A table for each deal; the best rule by its worst attack."""
        tables, verdicts, words = [], [], []
        for deal in DEALS:
            rules = [rule for rule in RULES if _settled(found, deal, rule, "none")]
            attacks = [attack for attack in ATTACKS if _settled(found, deal, "mean", attack)]
            worst = {
                rule: min(statistics.fmean(_settled(found, deal, rule, each)) for each in attacks) for rule in rules
            }
            tables.append(
                [
                    (f"accuracy, {TITLES[deal]}", *attacks, "worst"),
                    *(
                        (
                            rule,
                            *(f"{statistics.fmean(_settled(found, deal, rule, each)):.3f}" for each in attacks),
                            f"{worst[rule]:.3f}",
                        )
                        for rule in sorted(rules, key=lambda rule: -worst[rule])
                    ),
                ]
            )
            best = max(rules, key=lambda rule: worst[rule])
            against = min(attacks, key=lambda each: statistics.fmean(_settled(found, deal, best, each)))
            lost = interval_of(
                [
                    100 * (plain - attacked)
                    for plain, attacked in zip(
                        _settled(found, deal, "mean", "none"), _settled(found, deal, best, against), strict=True
                    )
                ]
            )
            when = (
                "even without an attack it costs" if against == "none" else f"at its worst, under {against}, it costs"
            )
            words.append(
                f"With {TITLES[deal]} {best} keeps the most: {when} {said(lost, '.1f')} points against the mean that "
                "nobody attacks."
            )
            words += _unstopped(found, deal, rules, attacks)
            if deal == "alike":
                verdicts.append(
                    Verdict(
                        target=f"a fifth poisoned, data alike: the best rule within {WITHIN:g} points of no attack",
                        found=f"{best}: {said(lost, '.1f')} points in its worst column, {against}",
                        outcome="met" if lost.mean <= WITHIN else "missed",
                    )
                )
        return Section(
            text=[
                f"Softmax regression on the digits, {N_DEVICES} devices of which {N_BAD} attack in every round, f = "
                f"{N_BAD}; {N_ROUNDS} rounds, {N_SEEDS} seeds, the mean accuracy of the last {SETTLED} rounds. Data "
                f"are dealt alike, by Dirichlet({CONCENTRATION:g}) over the labels, or in two shards of the sorted "
                "images a device, two digits or three. Attackers send four times their update backwards (*sign flip*), "
                "twice their common mean backwards (*inner product*), their mean less 1.5 standard deviations (*a "
                "little*), what they learned with label 9 − y (*label flip*), noise ten times as long as their update, "
                "or no numbers, which are refused before any rule sees them. "
                f"Clipping is to a 2-norm of {RADIUS:g}. Rules are ordered by their worst attack.",
            ],
            tables=tables,
            meaning=" ".join(words)
            + " The column without an attack shows what a rule costs by itself: whoever leaves out the unusual leaves "
            "out honest devices with unusual data. Accuracy does not show a backdoor that stays within the honest "
            "spread, which none of these rules stops ([what no rule stops](robust.md#what-no-rule-stops)).",
            verdicts=verdicts,
            picture="accuracy over rounds under sign flip, and under a little, with data alike",
        )

    def draw(self, found: Found, axes: Sequence[Any]) -> None:
        """Draw the curves of some rules under two attacks."""
        for place, attack in zip(axes, ("sign flip", "a little"), strict=True):
            lines = {
                rule: _curve(found, "alike", rule, attack)
                for rule in ("mean", "mean, clipped", "median", "multi-Krum", "geometric median", "mixing, median")
            }
            draw_lines(
                place,
                {rule: line for rule, line in lines.items() if line},
                x=f"round, {attack}",
                y="accuracy, mean over seeds",
            )


def _unstopped(found: Found, deal: str, rules: Sequence[str], attacks: Sequence[str]) -> list[str]:
    """Return a sentence on what costs even the rule that withstands it best more than the bound."""
    plain = statistics.fmean(_settled(found, deal, "mean", "none"))
    lost = {}
    for attack in attacks:
        kept, rule = max((statistics.fmean(_settled(found, deal, rule, attack)), rule) for rule in rules)
        if attack != "none" and 100 * (plain - kept) > WITHIN:
            lost[attack] = f"{attack} ({rule}, {100 * (plain - kept):.1f} points less)"
    if not lost:
        return [f"Each of these attacks is held within {WITHIN:g} points by some rule."]
    return [f"No rule holds within {WITHIN:g} points: {', '.join(lost.values())}."]


def _settled(found: Found, deal: str, rule: str, attack: str) -> list[float]:
    return [cast(float, numbers["settled"]) for _, numbers in found.of(f"{deal}/{rule}/{attack}")]


def _curve(found: Found, deal: str, rule: str, attack: str) -> list[tuple[float, float]]:
    curves = [cast(Sequence[float], numbers["accuracy"]) for _, numbers in found.of(f"{deal}/{rule}/{attack}")]
    if not curves:
        return []
    return [(at + 1, statistics.fmean(values) / 1000) for at, values in enumerate(zip(*curves, strict=False))]


case = Poison()
