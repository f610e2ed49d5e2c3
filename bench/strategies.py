"""How a server makes the next model, ours beside Flower's strategies: the same updates, and how far apart they end.

Ours is what a run does with accepted updates: `fold` into the rule, and `advance` with the optimizer. Where Flower
departs from the papers that both cite, ours is also walked with that departure, so that nothing else is left to differ.

Not here: running Flower's (`flower/strategies.py`, `strategy_runs.py`).
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from aggregator.folding import fold
from aggregator.optimizer_settings import OptimizerSettings
from aggregator.rule_settings import RuleSettings
from aggregator.rules import AggregationRule, Cohort, CohortRule, Mean, QFedAvg, cohort_rule, rule_of
from aggregator.rules.cohort import weighted_sum
from aggregator.rules.krum import Bulyan, Krum, krum_scores
from aggregator.server_optimizers import OptimizerState, advance, load_optimizer
from aggregator.update_rows import UpdateRows
from shared.codecs import CODECS
from shared.parameters import ParameterSpec
from shared.task import Initial

__all__ = [
    "STRATEGIES",
    "TARGET",
    "Comparison",
    "Inputs",
    "StrategyCase",
    "compared",
    "some_inputs",
    "strategies_table",
    "walk",
]

N_PARAMS, N_ROUNDS, N_CLIENTS = 2000, 20, 10
TARGET: Final = 1e-6
"""How far apart they may be, once Flower's departure is accounted for: float32 rounds a parameter to 6e-8 of it."""
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What both are given.

    Args:
        first: (n_params,) the first model.
        deltas: (n_rounds, n_clients, n_params) what each client adds to the model that it received.
        counts: (n_rounds, n_clients) its examples.
        losses: (n_rounds, n_clients) its loss with the model that it received.
    """

    first: F32
    deltas: F32
    counts: NDArray[np.int64]
    losses: F64


def some_inputs(seed: int = 1) -> Inputs:
    """Return updates of clients that agree in part, of sizes from 1e-4 to 1e-1 over the parameters."""
    rng = np.random.default_rng(seed)
    size = 10.0 ** rng.uniform(-4, -1, N_PARAMS)
    common = rng.normal(size=N_PARAMS)
    noise = rng.normal(size=(N_ROUNDS, N_CLIENTS, N_PARAMS))
    return Inputs(
        first=(0.1 * rng.normal(size=N_PARAMS)).astype(np.float32),
        deltas=((common + noise) * size).astype(np.float32),
        counts=rng.integers(1, 500, (N_ROUNDS, N_CLIENTS)),
        losses=rng.uniform(0.2, 3.0, (N_ROUNDS, N_CLIENTS)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyCase:
    """One of Flower's strategies, and ours.

    Args:
        name: of the row.
        flower: Flower's class.
        numbers: that it is made with.
        optimizer: `[server.optimizer]` of ours.
        q: of q-FedAvg; None: the mean, weighted by examples, or `rule`.
        rule: `server.rule` of ours, over the whole cohort; None: the mean.
        departing_rule: makes Flower's version of `rule` of f, where it departs; None: it is ours.
        departure: of Flower's from the paper, in words; "" for none.
        rate_factor: by which Flower's rate differs in a round, counted from 1.
        starts_at_zero: whether Flower's v does.
    """

    name: str
    flower: str
    numbers: Mapping[str, float]
    optimizer: Mapping[str, Any]
    q: float | None = None
    rule: Mapping[str, Any] | None = None
    departing_rule: Callable[[int], CohortRule] | None = None
    departure: str = ""
    rate_factor: Callable[[int], float] = lambda server_round: 1.0
    starts_at_zero: bool = False


def _adam_factor(server_round: int) -> float:
    """Return what Flower multiplies FedAdam's rate with: Kingma and Ba's correction, of the round after."""
    power = server_round + 1
    return float(np.sqrt(1 - 0.99**power) / (1 - 0.9**power))


_ADAPTIVE = {"beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3}
_V = "v begins at 0, not at τ² or more"
STRATEGIES: Final[Sequence[StrategyCase]] = (
    StrategyCase(name="FedAvg", flower="FedAvg", numbers={}, optimizer={"name": "sgd"}),
    StrategyCase(
        name="FedAvgM",
        flower="FedAvgM",
        numbers={"server_learning_rate": 1.0, "server_momentum": 0.9},
        optimizer={"name": "fedavgm", "momentum": 0.9},
    ),
    StrategyCase(
        name="FedAdagrad",
        flower="FedAdagrad",
        numbers={"eta": 0.1, "tau": 1e-3},
        optimizer={"name": "adagrad", "learning_rate": 0.1},
        departure=_V,
        starts_at_zero=True,
    ),
    StrategyCase(
        name="FedAdam",
        flower="FedAdam",
        numbers={"eta": 0.01, **_ADAPTIVE},
        optimizer={"name": "adam", "learning_rate": 0.01, **_ADAPTIVE},
        departure=f"{_V}; the rate of round t is multiplied with √(1 − β₂^(t+1)) / (1 − β₁^(t+1))",
        rate_factor=_adam_factor,
        starts_at_zero=True,
    ),
    StrategyCase(
        name="FedYogi",
        flower="FedYogi",
        numbers={"eta": 0.01, **_ADAPTIVE},
        optimizer={"name": "yogi", "learning_rate": 0.01, **_ADAPTIVE},
        departure=_V,
        starts_at_zero=True,
    ),
    *(
        StrategyCase(
            name=f"QFedAvg, q = {q:g}",
            flower="QFedAvg",
            numbers={"client_learning_rate": 0.05, "q": q},
            optimizer={"name": "sgd"},
            q=q,
        )
        for q in (0.0, 0.2, 1.0, 5.0)
    ),
    StrategyCase(name="FedMedian", flower="FedMedian", numbers={}, optimizer={"name": "sgd"}, rule={"name": "median"}),
    StrategyCase(
        name="FedTrimmedAvg",
        flower="FedTrimmedAvg",
        numbers={"beta": 0.2},
        optimizer={"name": "sgd"},
        rule={"name": "trimmed-mean", "byzantine": 2},
    ),
    StrategyCase(
        name="Krum",
        flower="Krum",
        numbers={"num_malicious_nodes": 2},
        optimizer={"name": "sgd"},
        rule={"name": "krum", "byzantine": 2},
    ),
    StrategyCase(
        name="MultiKrum",
        flower="MultiKrum",
        numbers={"num_malicious_nodes": 2, "num_nodes_to_select": 8},
        optimizer={"name": "sgd"},
        rule={"name": "multi-krum", "byzantine": 2},
        departure="the mean of the chosen is weighted by examples, which a device can claim",
        departing_rule=lambda f: _WeightedKrum(f, is_multi=True),
    ),
    StrategyCase(
        name="Bulyan",
        flower="Bulyan",
        numbers={"num_malicious_nodes": 1},
        optimizer={"name": "sgd"},
        rule={"name": "bulyan", "byzantine": 1},
        departure="the n − 2f smallest scores are taken at once, and not one after the other",
        departing_rule=lambda f: _AtOnce(f),
    ),
)


def walk(case: StrategyCase, inputs: Inputs, *, departing: bool) -> F64:
    """Return our models after each round: (n_rounds, n_params).

    Args:
        case: which.
        inputs: what clients send.
        departing: as Flower departs from the paper.
    """
    spec = ParameterSpec.of(Initial({"w": inputs.first}))
    settings = OptimizerSettings.model_validate(case.optimizer)
    optimizer = load_optimizer(settings, Path())
    mean = _rule(case, spec, departing=departing)
    model, saved, models = inputs.first, dict[str, F32](), []
    if departing and case.starts_at_zero:
        begun: OptimizerState = optimizer.init(spec)
        saved = {f"step/{settings.name}/{key}": np.zeros_like(array) for key, array in begun.items()}
    for index, (deltas, counts, losses) in enumerate(zip(inputs.deltas, inputs.counts, inputs.losses, strict=True)):
        state = mean.init(spec.n_params)
        for delta, count, loss in zip(deltas, counts, losses, strict=True):
            rule, weight = mean, float(count)
            if isinstance(mean, QFedAvg):
                rule, weight = mean.told(loss=float(loss), learning_rate=case.numbers["client_learning_rate"]), 1.0
            fold(rule, state, CODECS["float32"], delta.astype("<f4").tobytes(), weight=weight)
        rate = settings.learning_rate * (case.rate_factor(index + 1) if departing else 1.0)
        model, saved = advance(settings.name, optimizer, saved, model, mean.finalize(state), spec, rate)
        models.append(model.astype(np.float64))
    return np.array(models)


def _rule(case: StrategyCase, spec: ParameterSpec, *, departing: bool) -> AggregationRule[Any]:
    if case.q is not None:
        return QFedAvg(case.q, spec.is_trainable)
    if case.rule is None:
        return Mean()
    settings = RuleSettings.model_validate(case.rule)
    over_cohort = cohort_rule(settings)
    if departing and case.departing_rule is not None:
        over_cohort = case.departing_rule(settings.byzantine or 0)
    return rule_of(over_cohort, lambda n_params: UpdateRows(Path(tempfile.gettempdir()), n_params))


class _WeightedKrum(Krum):
    """Multi-Krum as Flower has it."""

    def combine(self, cohort: Cohort) -> F64:
        scores = krum_scores(cohort.squared_distances, self._f)
        chosen = np.argsort(scores, kind="stable")[: len(cohort) - self._f]
        factors = np.zeros(len(cohort))
        factors[chosen] = cohort.weights[chosen] / cohort.weights[chosen].sum()
        return weighted_sum(cohort, factors)


class _AtOnce(Bulyan):
    """Bulyan as Flower has it."""

    def _chosen(self, distances: F64, n_chosen: int) -> list[int]:
        scores = krum_scores(distances, self._f)
        return [int(each) for each in np.argsort(scores, kind="stable")[:n_chosen]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How far two walks are apart, at most over the rounds.

    Args:
        name: of the case.
        departure: of Flower's, in words.
        apart: largest |ours − theirs| / max(1, |theirs|) of a parameter, by "as it is", "departing" and "departing,
            float32".
        moved: largest |theirs − first| of a parameter.
    """

    name: str
    departure: str
    apart: Mapping[str, float]
    moved: float


def compared(case: StrategyCase, inputs: Inputs, float64: F64, float32: F64) -> Comparison:
    """Compare ours with Flower's.

    Args:
        case: which.
        inputs: that both were given.
        float64: Flower's models after each round, computed with float64 arrays.
        float32: the same with float32 arrays, as models are sent.
    """
    departing = walk(case, inputs, departing=True)
    pairs = {
        "as it is": (walk(case, inputs, departing=False), float64),
        "departing": (departing, float64),
        "departing, float32": (departing, float32),
    }
    apart = {
        name: float((np.abs(ours - theirs) / np.maximum(1, np.abs(theirs))).max())
        for name, (ours, theirs) in pairs.items()
    }
    moved = float(np.abs(float64 - inputs.first).max())
    return Comparison(name=case.name, departure=case.departure, apart=apart, moved=moved)


def strategies_table(found: Sequence[Comparison]) -> list[list[str]]:
    """Return how far apart they are: the head, then a row a strategy; [] when there is none."""
    if not found:
        return []
    head = ["Flower's strategy", "its departure from the paper", "moved by", "apart as it is", "with the departure"]
    rows = [[*head, "and Flower in float32"]]
    for each in found:
        cells = [f"{each.apart[key]:.1e}" for key in each.apart]
        rows.append([each.name, each.departure or "none", f"{each.moved:.2g}", *cells])
    return rows
