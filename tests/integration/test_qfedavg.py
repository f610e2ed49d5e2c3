"""Whole runs of q-FedAvg: the same bits after kills, and deaf to a device without a loss."""

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from aggregator.aggregation import Aggregation
from aggregator.config import Settings
from aggregator.journal import read_journal
from aggregator.model_store import ModelStore, ServerState
from aggregator.part_files import PartFiles
from aggregator.records import AcceptRecord, CommitRecord, OutcomeRecord
from shared.blocking import at_once
from shared.errors import Reason
from shared.parameters import ParameterSpec
from shared.task import Arrays, Client, Evaluated, Initial, Metric, Trained, Work
from simulator.fleet import AGGREGATOR, Fleet
from tests.integration.linear import some_settings

pytestmark = pytest.mark.virtual_time

CENTRES = (0.0, 0.0, 0.0, 4.0)
"""What each device wants the one parameter to be: three agree, one is far off."""


@pytest.fixture(autouse=True)
async def _without_debug() -> None:
    """Asyncio's debug mode would take four times as long."""
    asyncio.get_running_loop().set_debug(False)


@dataclass(frozen=True)
class Parabolas:
    """F_k(w) = (w − c_k)² / 2, and five steps along its gradient.

    Args:
        tells: whether it reports the loss.
    """

    tells: bool = True

    def initial_parameters(self, seed: int) -> Initial:
        """See `Task`."""
        return Initial({"w": np.ones(1, np.float32)})

    def train(self, parameters: Arrays, work: Work, client: Client) -> Trained:
        """See `Task`."""
        centre = CENTRES[int(client.id[1:])]
        w = float(parameters["w"][0])
        metrics: dict[str, Metric] = {"initial_loss": (w - centre) ** 2 / 2} if self.tells else {}
        for _ in range(5):
            w -= work.learning_rate * (w - centre)
        moved = {"w": np.array([w], np.float32)}
        return Trained(parameters=moved, num_examples=1 + int(client.id[1:]), n_steps=5, metrics=metrics)

    def evaluate(self, parameters: Arrays, client: Client | None, state: Arrays) -> Evaluated | None:
        """See `Task`: no data on the server."""
        return None


def a_run(folder: Path, n: int, rounds: int, **training: Any) -> Settings:
    """Return settings in which every device reports in every round."""
    return some_settings(
        folder,
        round={"report_goal": n, "over_selection": 1.0, "quorum": 1.0},
        training={"learning_rate": 0.05, **training},
        stop={"rounds": rounds},
        evaluation={"central_every": 0},
    )


async def learned(settings: Settings, folder: Path, n: int, kills: int) -> ServerState:
    """Return the last version of a run."""
    rng = Random(3)
    async with Fleet(settings, Parabolas(), folder) as fleet:
        fleet.start_aggregator()
        for i in range(n):
            fleet.add(f"d{i}")
        for _ in range(kills):
            await asyncio.sleep(rng.uniform(0.5, 4.0))
            await fleet.kill(AGGREGATOR)
            fleet.start_aggregator()
        result = await fleet.result()
    return ModelStore(result.folder / "versions").load(result.version)


async def test_run_that_was_killed_weighs_by_the_same_losses(tmp_path: Path) -> None:
    """Killed four times, under a rate that falls: the bits of the same rows in one life."""
    schedule = {"name": "exponential", "factor": 0.9}
    settings = a_run(tmp_path, 4, 5, algorithm="qfedavg", q=1.5, schedule=schedule)
    last = await learned(settings, tmp_path, 4, kills=4)
    rows = list(read_journal(settings.output.folder / "test" / "journal.sqlite"))
    accepts = [row for row in rows if isinstance(row, AcceptRecord)]
    assert {(row.base_version, row.learning_rate) for row in accepts} == {(v, 0.05 * 0.9**v) for v in range(5)}
    initial = Parabolas().initial_parameters(1)
    spec = ParameterSpec.of(initial)
    first = replace(last, version=0, spec=spec, parameters=spec.flatten(initial.parameters))
    files, store = PartFiles(tmp_path / "u"), ModelStore(tmp_path / "v")
    aggregation = Aggregation(settings, first, files, store, at_once)
    for commit in (row for row in rows if isinstance(row, CommitRecord)):
        counted = [row for row in accepts if row.into == commit.version]
        await aggregation.write(await aggregation.make(commit.version, commit.round_id, counted))
    assert aggregation.state.parameters.tobytes() == last.parameters.tobytes()


async def test_device_that_tells_no_loss_does_not_count(tmp_path: Path) -> None:
    """It fails by name, the others go on; the model is theirs alone."""
    settings = a_run(tmp_path, 3, 3, algorithm="qfedavg", q=1.0)
    async with Fleet(settings, Parabolas(), tmp_path) as fleet:
        fleet.start_aggregator()
        fleet.add("d3", task=Parabolas(tells=False))
        for i in range(3):
            fleet.add(f"d{i}")
        result = await fleet.result()
    rows = list(read_journal(result.folder / "journal.sqlite"))
    outcomes = [row for row in rows if isinstance(row, OutcomeRecord)]
    assert {row.device for row in rows if isinstance(row, AcceptRecord)} == {"d0", "d1", "d2"}
    assert Reason.RESULT in {row.reason for row in outcomes}
    assert ModelStore(result.folder / "versions").load(3).parameters[0] < 1.0
