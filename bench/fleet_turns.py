"""Simulated fleets, one run after the other, each in a process of its own: ours, and Flower's simulation beside it.

Not here: what a run is (`simulated.py`, `flower/simulation.py`), what becomes of the figures (`fleets.py`).
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.children import ROOT
from bench.fleets import FleetCase, FleetFigures
from bench.round_log import ROUND, deviation_in
from bench.turn import ContenderName, Say
from bench.work import MODEL_BYTES
from shared.config import ENV_PREFIX
from shared.errors import FederationError
from simulator.processes import child_process

__all__ = ["FleetPlan", "measure_fleets"]

ROUNDING: Final = 0.25
"""FedAvg multiplies in float32: the mean of a thousand equals is off by hundredths. A missed round is off by 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPlan:
    """What is to be measured.

    Args:
        cases: in their order.
        contenders: who takes part; "flower" where the case is one that Flower can do.
        flower: the interpreter with Flower's simulation; None: there is none.
        n_turns: of each contender, in cases in which Flower takes part; one of any other.
        folder: below which runs write.
        keep_files: whether what a run wrote stays.
    """

    cases: Sequence[FleetCase]
    contenders: Sequence[ContenderName]
    flower: Path | None
    n_turns: int
    folder: Path
    keep_files: bool = False


async def measure_fleets(plan: FleetPlan, done: Callable[[str, str, FleetFigures], None], say: Say) -> None:
    """Measure everything.

    Args:
        plan: what.
        done: is given case, contender and figures as soon as a run is over.
        say: is told of each run.

    Raises:
        FederationError: a run failed; its files are kept.
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    for case in plan.cases:
        for turn in range(plan.n_turns if case.with_flower else 1):
            if "ours" in plan.contenders:
                figures = await _one(plan, case, None)
                done(case.name, "ours", figures)
                say(f"{case}, turn {turn + 1}, FedMQ: {figures.all_s:.1f} s, {figures.fits_a_second:.0f} fits a second")
            if case.with_flower and "flower" in plan.contenders and plan.flower is not None:
                figures = await _one(plan, case, plan.flower)
                done(case.name, "flower", figures)
                say(f"{case}, turn {turn + 1}, Flower on Ray: {figures.fits_a_second:.0f} fits a second")


async def _one(plan: FleetPlan, case: FleetCase, flower: Path | None) -> FleetFigures:
    folder = Path(tempfile.mkdtemp(prefix=f"{case.name}-", dir=plan.folder))
    figures = await (_ours(case, folder) if flower is None else _flower(case, folder, flower))
    if not plan.keep_files:
        shutil.rmtree(folder)
    return figures


async def _ours(case: FleetCase, folder: Path) -> FleetFigures:
    log = folder / "fleet.log"
    await _run("bench.simulated", [case.name, str(folder)], log, _environment())
    return FleetFigures(**json.loads(log.read_text(errors="replace").splitlines()[-1]))


async def _flower(case: FleetCase, folder: Path, python: Path) -> FleetFigures:
    log = folder / "flower.log"
    variables = {**_environment(), MODEL_BYTES: str(case.model_bytes), "FLWR_TELEMETRY_ENABLED": "0"}
    began = time.monotonic()
    await _run("bench.flower.simulation", [str(case.n_devices), str(case.n_rounds)], log, variables, python)
    ended, difference = time.monotonic(), deviation_in(log)
    if difference is None or difference > ROUNDING:
        raise FederationError(f"Flower's final model is wrong by {difference}; the log is {log}")
    lines = log.read_text(errors="replace").splitlines()
    ends = [json.loads(line)["round_ended_at_s"] for line in lines if line.startswith(ROUND)]
    return FleetFigures(
        n_fits=(case.n_rounds - case.n_warm_up) * case.report_goal,
        seconds=ends[-1] - ends[case.n_warm_up - 1],
        connect_s=None,
        all_s=ended - began,
    )


async def _run(
    module: str, words: Sequence[str], log: Path, variables: Mapping[str, str], python: Path | None = None
) -> None:
    others = {} if python is None else {"python": python}
    async with child_process(module, module, words, log=log, environment=variables, **others) as child:
        if code := await child.ended():
            raise child.failure(code)


def _environment() -> dict[str, str]:
    # settings of ours that somebody has set for something else are not the fleet's
    ours = {name: value for name, value in os.environ.items() if not name.upper().startswith(ENV_PREFIX)}
    return {**ours, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
