"""The short form of the torture: about a minute of killing everything, on the real broker."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from broker.server.mosquitto import find_mosquitto
from simulator.torture_tally import Tally

LONGEST_S = 90.0


@pytest.mark.mosquitto
@pytest.mark.skipif(find_mosquitto() is None, reason="there is no Mosquitto on this machine")
@pytest.mark.skipif(sys.platform != "linux", reason="the torture asks /proc which file a number stands for")
@pytest.mark.timeout(LONGEST_S + 30)
async def test_nothing_is_lost_and_nothing_counted_twice_while_everything_is_killed(tmp_path: Path) -> None:
    """Every update has one outcome or is still kept, and every model is the sum of its updates, bit for bit."""
    command = (sys.executable, "-m", "simulator", "torture", "--short", "--json", "--folder", str(tmp_path))
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(LONGEST_S):
            out, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    assert process.returncode in (0, 1), errors.decode()
    tally = Tally.model_validate(json.loads(out))
    assert tally.violations == []
    assert process.returncode == 0
    assert tally.runs == 3
    assert tally.aggregator_kills >= 15
    assert tally.kills["broker"] >= 10
    assert tally.kills["devices"] >= 100
    assert len([kind for kind in tally.kills if kind.startswith("aggregator: ")]) >= 3  # random instants and some steps
    assert any(kind.startswith("disk full") for kind in tally.faults)
    assert tally.accepted >= 50
    assert tally.versions >= 3
