"""A federated run, made from code: the real services in virtual time, and what came of them.

Not here: which runs are made (`cases/`), what they are compared with (`baselines.py`).
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from aggregator.history import EvaluationSummary, RoundSummary, RunHistory
from shared.config import load_settings
from shared.errors import FederationError
from shared.task import Arrays, Task
from simulator.outcomes import read_outcomes
from simulator.run_settings import settings_of
from simulator.runs.executors import Inline
from simulator.runs.report import at_s_of
from simulator.runs.scratch import scratch
from simulator.runs.simulation import Simulated, Simulation
from simulator.scenario import Scenario
from simulator.scenarios.trace_files import read_traces
from simulator.virtual_time import run_in_virtual_time

__all__ = ["Federated", "federate", "scenario_from"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Federated:
    """What came of a federated run.

    Args:
        parameters: the last version's, names as in a `state_dict`.
        rounds: committed ones, in order, with the metrics of central evaluation.
        evaluations: on devices.
        n_devices: of the fleet.
        simulated: what the simulation counted.
        codecs: of the updates that counted, how many came in which.
    """

    parameters: Arrays
    rounds: tuple[RoundSummary, ...]
    evaluations: tuple[EvaluationSummary, ...]
    n_devices: int
    simulated: Simulated
    codecs: Mapping[str, int]

    @property
    def seconds(self) -> list[float]:
        """Virtual seconds at which each committed round had ended."""
        return [at_s_of(each) for each in self.rounds]

    def curve(self, metric: str) -> list[float]:
        """Return a metric after each committed round."""
        return [each.metrics[metric] for each in self.rounds if metric in each.metrics]


def scenario_from(path: Path | None, changes: Mapping[str, Any]) -> Scenario:
    """Return a scenario, from a file or from code alone.

    Args:
        path: of its TOML.
        changes: keys over those of the file, dotted: `{"run.training.learning_rate": 0.1}`.

    Raises:
        ConfigError: a key or a value is wrong.
    """
    return load_settings(Scenario, path, changes, with_environment=False)


def federate(scenario: Scenario, task: Task, *, path: Path | None = None) -> Federated:
    """Run a scenario in virtual time, in this process, and return what came of it.

    Args:
        scenario: the fleet and, in `run`, its settings.
        task: what is learned, whatever the settings name.
        path: of its file, beside which its settings and traces lie.

    Raises:
        FederationError: a setting is wrong, something broke, or the run did not come to its end.
    """
    beside = path or Path("results.toml")
    with tempfile.TemporaryDirectory(prefix="fedmq-results-") as folder:
        settings, _ = settings_of(scenario, beside, Path(folder))
        output = settings.output.model_copy(update={"plot": False})
        settings = settings.model_copy(update={"output": output})
        with scratch(settings) as (inside, final), Inline(task) as computing:
            traces = read_traces(scenario, beside.parent)
            simulated = run_in_virtual_time(Simulation(scenario, inside, task, traces, computing).run())
        if simulated.result is None:
            raise FederationError(f"the run ended by {simulated.cause} after {simulated.virtual_s:.0f} virtual seconds")
        history = RunHistory.read(final / "history.jsonl")
        return Federated(
            parameters=load_file(final / "final.safetensors"),
            rounds=tuple(each for each in history.rounds if each.outcome == "committed"),
            evaluations=history.evaluations,
            n_devices=sum(scenario.counts.values()),
            simulated=simulated,
            codecs=read_outcomes(final).codecs,
        )
