"""Acts of a torture that are more than a kill: a second aggregator, a full disk. Nothing else goes wrong meanwhile.

Not here: when they are due (`torture_plan.py`).
"""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from broker.config import BrokerSettings
from broker.mqtt import MqttTransport
from shared.errors import AlreadyServed, PeerError, TransportError
from shared.messages import AggregatorStatus
from shared.topics import AggregatorStatusTopic, Topics
from shared.wire import decode_json
from simulator.torture_disk import SmallDisk
from simulator.torture_nursery import Nursery, Nursling
from simulator.torture_plan import FLEET, Act

__all__ = ["Acts"]

SERVING_S = 10.0
"""Seconds for an aggregator to come up, or to step back."""
PAUSED_S = 15.0
"""Seconds for an aggregator to notice that its disk is full, or free again; it looks every five."""
FULL_S = 2.0
"""Seconds that a disk stays full once the aggregator has paused, for devices to ask in vain."""
GOES_ON_S = 20.0
"""Seconds for the next version once there is room again."""
PAUSED = "paused"


class Acts:
    """Does an act to a life that has just begun.

    Args:
        url: of the broker.
        nursery: starts a second aggregator.
        logs: where its output goes.
        disk: of the run, None where it cannot be filled.
    """

    def __init__(self, url: str, nursery: Nursery, logs: Path, *, disk: SmallDisk | None) -> None:
        self._url, self._nursery, self._logs, self._disk = url, nursery, logs, disk

    async def do(self, act: Act, child: Nursling, life: Mapping[str, Any]) -> list[str]:
        """Do it, and return what went wrong.

        Args:
            act: which.
            child: the aggregator.
            life: the plan that it was started with.
        """
        if await self._status(lambda status: status.online, SERVING_S) is None:
            return [f"an aggregator that nobody harmed did not serve within {SERVING_S:g} s"]
        match act:
            case Act.RIVAL_HERE:
                return await self._rival(child, life, f"pid {child.pid}")
            case Act.RIVAL_ELSEWHERE:
                settings = {**life["settings"], "run": f"{life['settings']['run']}-rival"}
                return await self._rival(child, {**life, "settings": settings}, "is served by another aggregator")
            case Act.FILL_DISK if self._disk is not None:
                return await self._fill_disk(child, self._disk)
            case _:
                return []

    async def _rival(self, child: Nursling, life: Mapping[str, Any], said: str) -> list[str]:
        """Start a second aggregator: it must step back, saying why, and the first go on."""
        log = self._logs / "rival.log"
        begun = log.stat().st_size if log.exists() else 0
        rival = await self._nursery.start("rival", "simulator.torture_aggregator", {**life, "step": None}, log)
        code: int | None = None
        try:
            async with asyncio.timeout(SERVING_S):
                code = await rival.ended()
        except TimeoutError:
            await self._nursery.kill(rival)
            return [f"a second aggregator served beside the first for {SERVING_S:g} s; see {log}"]
        words = log.read_bytes()[begun:].decode(errors="replace")
        found = []
        if code != AlreadyServed.exit_code:
            found.append(f"a second aggregator ended with exit code {code}, not {AlreadyServed.exit_code}; see {log}")
        elif said not in words:
            found.append(f"a second aggregator did not say {said!r}; see {log}")
        if not child.is_running:
            found.append("the first aggregator ended when a second one came")
        return found

    async def _fill_disk(self, child: Nursling, disk: SmallDisk) -> list[str]:
        """Fill the disk: the aggregator must pause, and go on by itself when there is room again."""
        with disk.filled(child.pid):
            paused = await self._status(lambda status: status.phase == PAUSED, PAUSED_S)
            if paused is not None:
                await asyncio.sleep(FULL_S)
        if not child.is_running:
            return [f"the aggregator ended when its disk was full ({disk.name}); see {child.log}"]
        if paused is None:
            return [f"the disk was full for {PAUSED_S:g} s ({disk.name}), and the aggregator did not pause"]
        if await self._status(lambda status: status.phase != PAUSED, PAUSED_S) is None:
            return [f"the disk had room again, and {PAUSED_S:g} s later the aggregator was still paused"]
        if await self._status(lambda status: status.version > paused.version, GOES_ON_S) is None:
            return [f"the disk had room again, and {GOES_ON_S:g} s later there was no new version"]
        return []

    async def _status(self, is_it: Callable[[AggregatorStatus], bool], longest_s: float) -> AggregatorStatus | None:
        """Return the first status of the aggregator that is as wanted; None: none came in time."""
        topic = Topics(FLEET).build(AggregatorStatusTopic())
        transport = MqttTransport(BrokerSettings(url=self._url), "torture-watch")
        try:
            async with asyncio.timeout(longest_s), transport.connect() as connection:
                await connection.subscribe([topic])
                async for message in connection.messages():
                    try:
                        status = decode_json(AggregatorStatus, message.payload)
                    except PeerError:
                        continue
                    if is_it(status):
                        return status
        except (TimeoutError, TransportError):
            pass
        return None
