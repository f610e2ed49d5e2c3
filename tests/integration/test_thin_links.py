"""A model and an update of 1 MiB through links on which nobody would expect it, with the settings as they come."""

import asyncio
from pathlib import Path

import pytest

from aggregator.config import RoundSettings, Settings
from broker.link import LinkProfile
from simulator.fleet import Fleet
from tests.integration.linear import N_FEATURES, LinearTask
from tests.integration.watching import WatchedBroker, unwatched_loop

MIB = 2**20
TASK = LinearTask(padding=MIB // 4 - N_FEATURES)


def _settings(folder: Path) -> Settings:
    """A run as a user has it: what is to be learned, when to stop, and defaults."""
    return Settings.model_validate(
        {
            "task": "tests.integration.linear:LinearTask",
            "run": "test",
            "round": RoundSettings(report_goal=1, over_selection=1.0),
            "training": {"learning_rate": 0.02, "codec": "float32"},
            "stop": {"rounds": 1},
            "output": {"folder": folder / "runs"},
        }
    )


async def _cut_every(broker: WatchedBroker, device: str, seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        broker.cut(device)


@pytest.mark.parametrize(
    ("bytes_per_s", "cut_every_s", "at_most"),
    [
        pytest.param(8000.0, None, 1.02, id="8 kB a second"),
        pytest.param(2000.0, None, 1.02, id="2 kB a second"),
        pytest.param(40_000.0, 5.0, 15.0, id="40 kB a second, cut every 5 s"),
    ],
)
async def test_megabyte_comes_down_and_goes_up_through_a_thin_link(
    tmp_path: Path, bytes_per_s: float, cut_every_s: float | None, at_most: float
) -> None:
    """The round commits, in about the time that the bytes alone take where the link only is slow."""
    unwatched_loop()
    link = LinkProfile(up_bytes_per_s=bytes_per_s, down_bytes_per_s=bytes_per_s, latency_s=0.1)
    settings = _settings(tmp_path)
    fleet, broker = Fleet(settings, TASK, tmp_path), WatchedBroker(seed=1)
    fleet.broker = broker
    async with fleet:
        fleet.start_aggregator()
        fleet.add("thin", link=link)
        cutting = asyncio.create_task(_cut_every(broker, "thin", cut_every_s)) if cut_every_s else None
        result = await fleet.result()
        took_s = asyncio.get_running_loop().time()
        if cutting is not None:
            cutting.cancel()
    assert (result.version, result.counts["accepted"]) == (1, 1)
    # a time of its own for connecting, training and the journal, besides that of the bytes
    assert took_s <= 30.0 + at_most * 2 * MIB / bytes_per_s
    assert cut_every_s or broker.traffic["thin"].again("chunk") == 0
