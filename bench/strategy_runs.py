"""Flower's strategies, run on given updates in Flower's environment, and compared with ours."""

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.children import ROOT
from bench.strategies import STRATEGIES, Comparison, StrategyCase, compared, some_inputs
from bench.turn import Say
from simulator.processes import child_process

__all__ = ["compare_strategies"]


async def compare_strategies(
    python: Path, folder: Path, say: Say, cases: Sequence[StrategyCase] = STRATEGIES
) -> list[Comparison]:
    """Return how far each of Flower's strategies is from ours.

    Args:
        python: the interpreter of Flower's environment.
        folder: below which inputs and outputs lie while it runs.
        say: is told of each.
        cases: which.

    Raises:
        FederationError: Flower's failed; the log's last words are in it.
    """
    os.makedirs(folder, exist_ok=True)
    inputs = some_inputs()
    with tempfile.TemporaryDirectory(prefix="strategies-", dir=folder) as name:
        given, found, log = Path(name, "inputs.npz"), Path(name, "outputs.npz"), Path(name, "strategies.log")
        np.savez(
            given,
            first=inputs.first,
            deltas=inputs.deltas,
            counts=inputs.counts,
            losses=inputs.losses,
            strategies=json.dumps({case.name: [case.flower, dict(case.numbers)] for case in cases}),
        )
        variables = {**os.environ, "PYTHONPATH": str(ROOT), "FLWR_TELEMETRY_ENABLED": "0"}
        words = [str(given), str(found)]
        module = "bench.flower.strategies"
        async with child_process("strategies", module, words, log=log, environment=variables, python=python) as child:
            if code := await child.ended():
                raise child.failure(code)
        with np.load(found) as outputs:
            comparisons = [
                compared(case, inputs, outputs[f"{case.name}/float64"], outputs[f"{case.name}/float32"])
                for case in cases
            ]
    for each in comparisons:
        say(f"{each.name}: {each.apart['departing']:.1e} apart")
    return comparisons
