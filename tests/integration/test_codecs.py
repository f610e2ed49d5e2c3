"""Whole runs with the codecs that round: from the device's delta through chunks, files and a restart into the model."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from aggregator.history import COUNTS, RunHistory
from shared.codecs import CODECS, codec_named
from shared.parameters import ParameterSpec
from shared.task import Arrays, Client, Initial, Trained, Work
from simulator.fleet import AGGREGATOR, Fleet
from tests.integration.linear import LinearTask, some_settings

PADDING = 26_000
TRANSFER = {"chunk_bytes": 32_768, "inline_bytes": 1024}
"""Even the smallest is offered and sent in chunks."""


@dataclass(frozen=True)
class Normed(LinearTask):
    """Beside the weights a running mean that every device wants to be a third."""

    padding: int = PADDING

    def initial_parameters(self, seed: int) -> Initial:
        """See `Task`."""
        parameters = {"mean": np.zeros(3, np.float32), **super().initial_parameters(seed).parameters}
        return Initial(parameters, buffers=frozenset({"mean"}))

    def train(self, parameters: Arrays, work: Work, client: Client) -> Trained:
        """See `Task`."""
        trained = super().train(parameters, work, client)
        learned = {**(trained.parameters or {}), "mean": np.full(3, 1 / 3, np.float32)}
        return Trained(parameters=learned, num_examples=trained.num_examples, n_steps=trained.n_steps)


@pytest.mark.parametrize("name", [name for name in CODECS if not name.startswith("float")])
async def test_run_learns_through_a_restart(name: str, tmp_path: Path) -> None:
    """Every update is believed, none is larger than the codec says, buffers are exact, and the loss falls."""
    settings = some_settings(tmp_path, training={"codec": name}, stop={"rounds": 4}, transfer=TRANSFER)
    spec = ParameterSpec.of(Normed().initial_parameters(0))
    async with Fleet(settings, Normed(), tmp_path) as fleet:
        fleet.start_aggregator()
        for i in range(6):
            fleet.add(f"d{i}")
        await fleet.until(lambda: fleet.status is not None and fleet.status.version == 1)
        await fleet.kill(AGGREGATOR)
        fleet.start_aggregator()
        result = await fleet.result()
    assert (result.version, result.cause) == (4, "rounds")
    rounds = RunHistory.read(settings.output.folder / "test" / "history.jsonl").rounds
    assert [each.outcome for each in rounds].count("committed") == 4
    assert rounds[-1].totals.get("rejected", 0) == 0
    assert rounds[-1].metrics["loss"] < rounds[0].metrics["loss"] / 2
    model = load_file(settings.output.folder / "test" / "final.safetensors")
    np.testing.assert_allclose(model["mean"], 1 / 3, rtol=1e-6)
    n_bytes = codec_named(name, spec).encoded_bytes(spec.n_params)
    n_leases = sum(rounds[-1].totals[count] for count in COUNTS)
    assert sum(each.bytes_up for each in rounds) <= 2 * n_leases * n_bytes  # some twice, for the restart
