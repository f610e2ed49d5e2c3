"""Small fleets for simulations: forty mixed devices that a few seconds of this machine take through an hour."""

from pathlib import Path
from typing import Any

from aggregator.config import Settings
from shared.task import Task
from simulator.runs.executors import Executor, Inline
from simulator.runs.report import Report, report_of
from simulator.runs.simulation import Simulated, Simulation
from simulator.scenario import Scenario
from simulator.scenarios.traces import Trace
from simulator.virtual_time import run_in_virtual_time
from tests.integration.linear import LinearTask

__all__ = ["LINEAR", "a_scenario", "settings_for", "simulated", "written"]

LINEAR = "tests.integration.linear:LinearTask"
MIXED: dict[str, Any] = {
    "n_devices": 20,
    "seed": 3,
    "devices": {
        "pi-4": {"share": 0.5, "link": "wifi"},
        "phone": {
            "class": "old-phone",
            "share": 0.25,
            "link": "4g",
            "availability": {"hours": [[0, 0.02], [0.03, 3]]},
            "faults": {"dropout": 0.2, "crash_every_s": 300, "reboot_every_s": 60, "down_s": 30},
        },
        "pi-zero-2": {"share": 0.25, "link": "3g"},
    },
    "faults": [
        {"kind": "broker_restart", "at_s": 20},
        {"kind": "partition", "share": 0.3, "at_s": 40, "lasts_s": 20},
        {"kind": "aggregator_restart", "at_s": 70},
    ],
}


def a_scenario(**changes: Any) -> Scenario:
    """Return the mixed fleet, or another."""
    run: dict[str, Any] = {
        "task": LINEAR,
        "run": "r",
        "round": {"report_goal": 5, "window_s": {"min": 60, "max": 600}},
        "stop": {"rounds": 12, "metric": "loss"},
        "output": {"plot": False},
    }
    for key, value in changes.pop("run", {}).items():
        run[key] = {**run[key], **value} if isinstance(value, dict) and key in run else value
    return Scenario.model_validate({"run": run, **(changes if "devices" in changes else {**MIXED, **changes})})


def settings_for(scenario: Scenario, folder: Path) -> Settings:
    """Return the run's settings, with its folder in `folder`."""
    output = {**scenario.run.get("output", {}), "folder": folder}
    return Settings.model_validate({**scenario.run, "seed": scenario.seed or 1, "output": output})


def simulated(
    scenario: Scenario,
    folder: Path,
    *,
    task: Task | None = None,
    executor: Executor | None = None,
    traces: dict[Path, tuple[Trace, ...]] | None = None,
) -> tuple[Simulated, Report]:
    """Run a scenario; return what came of it, and its report."""
    settings = settings_for(scenario, folder)
    learned = task or LinearTask()
    with executor or Inline(learned) as computing:
        came = run_in_virtual_time(Simulation(scenario, settings, learned, traces or {}, computing).run())
    report = report_of(came, scenario, settings, folder / "r", executor="inline", file=Path("a.toml"))
    return came, report


def written(folder: Path, report: Report) -> tuple[bytes, bytes, dict[str, Any]]:
    """Return what must be equal of two runs: the model, the history, the report but for the machine."""
    fields = {name: value for name, value in report.fields.items() if name != "machine"}
    run = folder / "r"
    return (run / "final.safetensors").read_bytes(), (run / "history.jsonl").read_bytes(), fields
