"""A model on its way down: what has come is not fetched again, whether the link breaks or the device is killed."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Literal

import pytest

from broker.link import LinkProfile
from simulator.fleet import Fleet
from tests.integration.linear import LinearTask, some_settings
from tests.integration.watching import WatchedBroker, unwatched_loop

CHUNK_BYTES = 4096
N_PIECES = 12
"""Eleven chunks of the model, and its index in one piece."""
TASK = LinearTask(padding=CHUNK_BYTES // 4 * (N_PIECES - 2))
THIN = LinkProfile(down_bytes_per_s=20_000.0, latency_s=0.02)


@pytest.mark.parametrize("how", ["link", "power"])
async def test_download_that_is_interrupted_fetches_only_what_is_missing(
    tmp_path: Path, how: Literal["link", "power"]
) -> None:
    """A device for each piece of the model, interrupted right after that piece: at most that one comes again."""
    unwatched_loop()
    goal = {"report_goal": N_PIECES, "over_selection": 1.0, "quorum": 1.0}
    settings = some_settings(tmp_path, round=goal, stop={"rounds": 1})
    fleet, broker = Fleet(settings, TASK, tmp_path), WatchedBroker(seed=1)
    fleet.broker = broker

    async def interrupt(device: str, n_pieces: int) -> None:
        traffic = broker.traffic[device]
        has_come = asyncio.Event()

        def received(topic: str) -> None:
            if len(traffic.pieces()) == n_pieces:
                has_come.set()

        traffic.on_received = received
        await has_come.wait()
        if how == "link":
            broker.cut(device)
        else:
            await fleet.kill(device)
            fleet.start(device)

    async with fleet:
        fleet.start_aggregator()
        async with asyncio.TaskGroup() as group:
            for i in range(N_PIECES):
                fleet.add(f"d{i}", link=THIN)
                group.create_task(interrupt(f"d{i}", i + 1))
        result = await fleet.result()
    assert result.counts["accepted"] == N_PIECES
    for i in range(N_PIECES):
        pieces = broker.traffic[f"d{i}"].pieces()
        interrupted_at = pieces[i]
        again = {topic for topic, n in Counter(pieces).items() if n > 1}
        assert len(set(pieces)) == N_PIECES
        assert again <= {interrupted_at}
        assert broker.traffic[f"d{i}"].n_connections >= 2
