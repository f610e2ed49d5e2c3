"""One simulated fleet, measured in a process of its own: `python -m bench.simulated NAME FOLDER` prints JSON.

The real services on the broker in memory, in virtual time. Devices keep their state in memory; the aggregator's run is
on disk, with its journal, as everywhere.

Not here: which fleets there are (`fleets.py`), Flower's simulation of the same (`flower/simulation.py`).
"""

import asyncio
import hashlib
import json
import os
import resource
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from safetensors.numpy import load_file

from aggregator.config import Settings
from bench.fleets import FLEETS, FleetCase, FleetFigures
from bench.stages import StageTimes
from bench.task import AddOne
from bench.work import NAME, deviation
from shared.errors import FederationError
from shared.logs import set_up_logs
from shared.task import Task
from simulator.fleet import AGGREGATOR, Fleet
from simulator.inline_blocking import COARSE
from simulator.virtual_time import run_in_virtual_time

__all__ = ["measured"]

RUN: Final = "bench"
SEED: Final = 1


def measured(case: FleetCase, folder: Path) -> FleetFigures:
    """Run a fleet to its end.

    Args:
        case: which.
        folder: for the aggregator's run; empty.

    Raises:
        FederationError: the final model is not what its rounds should have made of it.
    """
    return run_in_virtual_time(_measured(case, folder))


async def _measured(case: FleetCase, folder: Path) -> FleetFigures:
    loop, task = asyncio.get_running_loop(), _task(case)
    task.initial_parameters(SEED)  # what the task loads is not a device's
    if case.model_bytes is None:
        task.evaluate(task.initial_parameters(SEED).parameters, None, {})
    rss_before, began = _rss(), time.perf_counter()
    stages = StageTimes()
    async with Fleet(
        _settings(case, folder), task, folder / "devices", seed=SEED, in_memory=True, delays=COARSE
    ) as fleet:
        fleet.start_aggregator()
        for number in range(case.n_devices):
            fleet.add(f"device-{number}", partition=(number, case.n_devices))
        await fleet.until(lambda: _n_known(fleet) == case.n_devices or not fleet.is_running(AGGREGATOR))
        if _n_known(fleet) < case.n_devices:
            raise FederationError(f"the run was over when {_n_known(fleet)} of {case.n_devices} devices had checked in")
        device_bytes = (_rss() - rss_before) // case.n_devices
        connected = time.perf_counter()
        await fleet.until(lambda: fleet.status and fleet.status.version >= case.n_warm_up)
        warm, cpu_before = time.perf_counter(), time.process_time()
        with stages:
            result = await fleet.result()
        ended, cpu_s = time.perf_counter(), time.process_time() - cpu_before
        virtual_s = loop.time()
    if case.model_bytes is not None and (wrong := deviation(load_file(result.model)[NAME], case.n_rounds)):
        raise FederationError(f"the final model is wrong by up to {wrong:g}; the run is in {result.folder}")
    n_fits = result.counts["accepted"] + result.counts["discarded"] - case.n_warm_up * case.report_goal
    return FleetFigures(
        n_fits=n_fits,
        seconds=ended - warm,
        connect_s=connected - began,
        all_s=time.perf_counter() - began,
        virtual_s=virtual_s,
        peak_rss=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        device_bytes=device_bytes,
        microseconds=stages.microseconds_each(n_fits, cpu_s),
        metrics=result.metrics,
        sha256=hashlib.sha256(result.model.read_bytes()).hexdigest(),
    )


def _n_known(fleet: Fleet) -> int:
    return 0 if fleet.status is None else fleet.status.population.get("known", 0)


def _task(case: FleetCase) -> Task:
    if case.model_bytes is not None:
        return AddOne(case.model_bytes)
    from examples.linear_digits import task  # scikit-learn is wanted only here

    return task


def _settings(case: FleetCase, folder: Path) -> Settings:
    knobs: dict[str, Any] = {
        "task": "bench.simulated",
        "fleet": RUN,
        "run": RUN,
        "seed": SEED,
        "round": {
            "report_goal": case.report_goal,
            "over_selection": case.over_selection,
            "quorum": 0.8 if case.over_selection > 1 else 1.0,
            "window_s": {"min": 20, "max": 120},
        },
        "training": {"epochs": 1, "batch_size": 10, "learning_rate": 0.5, "codec": "float32"},
        "transfer": {"reconnect_window_s": 0.0},  # everybody comes at once: the most that can be asked of it
        "evaluation": {"central_every": 0 if case.model_bytes is not None else 10},
        "stop": {"rounds": case.n_rounds},
        "output": {"folder": folder / "runs", "keep_best": False, "plot": False},
    }
    return Settings.model_validate(knobs)


def _rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    set_up_logs("error")
    print(json.dumps(asdict(measured(FLEETS[sys.argv[1]], Path(sys.argv[2])))))
