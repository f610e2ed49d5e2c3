"""A device so slow that its model is gone before it has come."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import structlog

from aggregator.publishing import MAX_BLOBS
from broker.link import LinkProfile
from shared.blocking import Lane
from shared.topics import AssignmentTopic
from simulator.fleet import Fleet
from simulator.inline_blocking import DelayRange
from tests.integration.linear import LinearTask, some_settings
from tests.integration.watching import WatchedBroker, unwatched_loop

CHUNK_BYTES = 4096
TASK = LinearTask(padding=CHUNK_BYTES * 3)
SLOW = LinkProfile(down_bytes_per_s=300.0, latency_s=0.1)
"""A chunk takes fourteen seconds, the whole model almost three minutes."""
TEN_SECONDS: Mapping[Lane, DelayRange] = {Lane.TRAINING: (8.0, 10.0)}
"""Of a round of those who are quick."""


async def test_model_that_goes_away_under_a_slow_device_ends_its_lease_and_nothing_hangs(tmp_path: Path) -> None:
    """Nine devices fetch nine versions, and eight are kept: the first is told, drops its model, and gets new work."""
    unwatched_loop()
    goal = {
        "report_goal": 1,
        "over_selection": 10.0,
        "max_staleness": 50,
        "lease_s": 120,  # who is slow, and who counts
        "window_s": {"min": 20, "max": 120},
    }
    settings = some_settings(tmp_path, round=goal, stop={"rounds": 20}, evaluation={"central_every": 0})
    fleet, broker = Fleet(settings, TASK, tmp_path), WatchedBroker(seed=1)
    fleet.broker = broker
    slow = [f"slow{i}" for i in range(MAX_BLOBS + 1)]

    def n_assigned(device: str) -> int:
        return broker.traffic[device].received.count(fleet.topics.build(AssignmentTopic(device)))

    def version() -> int:
        return fleet.status.version if fleet.status else 0

    def is_beyond(before: int) -> bool:
        return version() > before

    with structlog.testing.capture_logs() as logs:
        async with fleet:
            fleet.start_aggregator()
            fleet.add("quick", delays=TEN_SECONDS)
            for device in slow:
                fleet.add(device, link=SLOW)
                await fleet.until(partial(n_assigned, device))
                await fleet.until(partial(is_beyond, version()))
            await fleet.until(lambda: n_assigned(slow[0]) > 1)  # told, and given new work
            result = await fleet.result()
            await fleet.until(lambda: not any(map(fleet.is_running, slow)))
    ended = {(line["outcome"], line.get("reason")) for line in logs if line["event"] == "lease_ended"}
    assert result.version == 20
    assert ("cancelled", "model_gone") in ended
