"""A use of `examples/`: its federated run against every device alone, and against all data in one place.

The federated side is the scenario as it stands, but that it never stops early and that its last version is taken. The
baselines train by the task's own `train`, again and again from where they were, at several learning rates, and are
evaluated after several numbers of passes: the best of these is what they are compared by (`use_section.py`).

Not here: what is said of the numbers (`use_section.py`).
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from aggregator.config import Settings
from aggregator.schedules import Schedule, built_in_schedule
from results.case import Numbers, Run, Scale
from results.federated import federate, scenario_from
from results.sources import ROOT
from shared.task import Arrays, Client, ClientId, Metric, Task, Work
from simulator.run_settings import settings_of
from simulator.scenario import Scenario

__all__ = ["ALONE", "CENTRAL", "FEDERATED", "Baseline", "Measure", "Use"]

FEDERATED, ALONE, CENTRAL = "federated", "alone", "central"
QUICK = 10
"""A quick run has so many times fewer rounds."""
TARGETS = ("at_least", "at_most", "patience")
"""Keys of `[run.stop]` by which a run would end early, on test data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A metric of the task, and how it is compared.

    Args:
        name: as the task calls it.
        title: for people.
        is_error: whether less is better.
        unit: of differences: "points" of a hundred; "%" of the baseline's value; "": the metric's own.
        of: "all": compared on everybody's held-out data with all data in one place; "devices": on each device's own
            with what it learned alone; "both".
    """

    name: str
    title: str
    is_error: bool = False
    unit: Literal["points", "%", ""] = "points"
    of: Literal["all", "devices", "both"] = "both"


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """How a baseline is trained.

    Args:
        rates: learning rates, as multiples of the scenario's.
        passes: after which it is evaluated, as multiples of those that a device of the federated run makes; ascending.
            The scenario's schedule of rates is stretched over the last of them.
        batch_size: None: the scenario's.
    """

    rates: Sequence[float] = (1 / 3, 1.0, 3.0)
    passes: Sequence[float] = (0.25, 0.5, 1.0, 2.0)
    batch_size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """The runs of one use.

    Args:
        name: of the module in `examples/`, of its scenario and of the case.
        measures: metrics of the task.
        chosen_by: the measure by which rate and passes of the baselines are chosen: one model has all of its measures.
        seeds_draw: what is another one for every seed, besides the course of training: how the data are divided, or
            the data themselves.
        alone: of every device alone.
        central: of all data in one place.
        n_passes: that a device of the federated run makes; None: by the scenario's epochs.
    """

    name: str
    measures: Sequence[Measure]
    chosen_by: str
    seeds_draw: Literal["folds", "data"]
    alone: Baseline = Baseline()
    central: Baseline = Baseline()
    n_passes: int | None = None

    @property
    def path(self) -> Path:
        """Of the scenario."""
        return ROOT / "examples" / f"{self.name}.toml"

    @property
    def sources(self) -> Sequence[str]:
        """Files that the numbers depend on."""
        return (f"examples/{self.name}.py", f"examples/{self.name}.toml")

    def runs(self, scale: Scale) -> Sequence[Run]:
        """Return the federated run and the baselines at each rate, for every seed and fold."""
        arms: list[tuple[str, dict[str, float]]] = [(FEDERATED, {})]
        for arm in (ALONE, CENTRAL):
            rates = self.baseline(arm).rates
            arms += [(arm, {"rate": rate}) for rate in (rates[:1] if scale.is_quick else rates)]
        shrunk = {"shrink": float(QUICK)} if scale.is_quick else {}
        return [
            Run(case=self.name, arm=arm, seed=seed, fold=fold, options={**options, **shrunk})
            for fold in scale.folds
            for seed in scale.seeds
            for arm, options in arms
        ]

    def compute(self, run: Run) -> Numbers:
        """Return metrics: of all held-out data by name, of each device's own by `device NAME`, a list.

        A baseline has them for each number of passes, as `NAME @ MULTIPLE`.
        """
        scenario = whole(scenario_from(self.path, {"seed": run.seed}), shrink=run.options.get("shrink", 1))
        settings, _ = settings_of(scenario, self.path, None)
        task: Task = importlib.import_module(f"examples.{self.name}").task_of(run.fold, run.seed)
        devices = [Client(id=ClientId(device.id), partition=device.partition) for device in scenario.plan()]
        if run.arm == FEDERATED:
            found = federate(scenario, task, path=self.path)
            return {
                **self._measured(task, found.parameters, None),
                **_by_device([self._measured(task, found.parameters, device) for device in devices]),
                "rounds": len(found.rounds),
            }
        n_passes = self._n_passes(settings, len(devices))
        passes = self.baseline(run.arm).passes
        marks = [max(1, round(multiple * n_passes)) for multiple in passes]
        numbers: dict[str, Any] = {}
        if run.arm == CENTRAL:
            everything = Client(id=ClientId("everything"), partition=(0, 1))
            for multiple, parameters in zip(passes, self._trained(task, settings, everything, marks, run), strict=True):
                numbers |= _at(multiple, self._measured(task, parameters, None))
            return numbers
        of_devices: dict[float, list[dict[str, float | None]]] = {multiple: [] for multiple in passes}
        for device in devices:
            for multiple, parameters in zip(passes, self._trained(task, settings, device, marks, run), strict=True):
                of_devices[multiple].append(self._measured(task, parameters, device))
        for multiple, measured in of_devices.items():
            numbers |= _at(multiple, _by_device(measured))
        return numbers

    def baseline(self, arm: str) -> Baseline:
        """Return how an arm that is not the federated one is trained."""
        return self.alone if arm == ALONE else self.central

    def _n_passes(self, settings: Settings, n_devices: int) -> int:
        """Return how often a device of the federated run goes over its data."""
        if self.n_passes is not None:
            return self.n_passes
        goal = min(settings.round.report_goal, n_devices)
        return max(1, round((settings.stop.rounds or 1) * (settings.training.epochs or 1) * goal / n_devices))

    def _trained(self, task: Task, settings: Settings, client: Client, marks: Sequence[int], run: Run) -> list[Arrays]:
        """Return the parameters after so many passes, as `marks` says, with the scenario's schedule of rates."""
        state: Arrays = {}
        parameters, number, found = task.initial_parameters(run.seed).parameters, 0, []
        part = client.partition or (0, 1)
        rounds_per_pass = (settings.stop.rounds or 1) / marks[-1]
        for before, mark in pairwise((0, *marks)):
            for first, epochs in _parts(settings, before, mark):
                factor = _schedule(settings).factor(round(first * rounds_per_pass))
                rate = settings.training.learning_rate * run.options["rate"] * factor
                batch_size = self.baseline(run.arm).batch_size or settings.training.batch_size
                work = _work(settings, epochs, [run.seed, *part, number], rate, batch_size, state)
                trained = task.train(parameters, work, client)
                assert trained.parameters is not None
                parameters, state, number = {**parameters, **trained.parameters}, trained.state, number + 1
            found.append(parameters)
        return found

    def _measured(self, task: Task, parameters: Arrays, client: Client | None) -> dict[str, float | None]:
        evaluated = task.evaluate(parameters, client, {})
        metrics: Mapping[str, Metric] = {} if evaluated is None else evaluated.metrics
        return {measure.name: _value(metrics.get(measure.name)) for measure in self.measures}


def whole(scenario: Scenario, *, shrink: float = 1) -> Scenario:
    """Return a scenario that goes through all of its rounds, or through a part of them.

    Args:
        scenario: any.
        shrink: so many times fewer rounds; 1: all.
    """
    stop = {name: value for name, value in scenario.run.get("stop", {}).items() if name not in TARGETS}
    stop["rounds"] = max(1, round(stop["rounds"] / shrink))
    evaluation = {**scenario.run.get("evaluation", {}), "central_every": 0, "federated_every": 0}
    return scenario.model_copy(update={"run": {**scenario.run, "stop": stop, "evaluation": evaluation}})


def _schedule(settings: Settings) -> Schedule:
    return built_in_schedule(settings.training.schedule)


def _parts(settings: Settings, before: int, mark: int) -> list[tuple[int, int]]:
    """Return from which pass on to train for how many: all at once, or one by one where the rate changes meanwhile."""
    if before == mark:
        return []
    factors = {_schedule(settings).factor(version) for version in range(settings.stop.rounds or 1)}
    return [(before, mark - before)] if len(factors) == 1 else [(each, 1) for each in range(before, mark)]


def _work(
    settings: Settings, epochs: int, seed: Sequence[int], rate: float, batch_size: int | None, state: Arrays
) -> Work:
    training = settings.training
    return Work(
        round_id=1,
        seed=int(np.random.default_rng(seed).integers(2**31)),
        algorithm="fedavg",
        epochs=epochs,
        max_steps=None,
        max_seconds=None,
        batch_size=batch_size,
        learning_rate=rate,
        options=training.options,
        state=state,
        progress=lambda steps_done, n_steps, **metrics: True,
    )


def _value(metric: Metric | None) -> float | None:
    if isinstance(metric, tuple):
        return metric[0] / metric[1] if metric[1] else None
    return metric


def _by_device(measured: Sequence[Mapping[str, float | None]]) -> dict[str, list[float | None]]:
    return {f"device {name}": [each[name] for each in measured] for name in measured[0]}


def _at(multiple: float, numbers: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{name} @ {multiple:g}": value for name, value in numbers.items()}
