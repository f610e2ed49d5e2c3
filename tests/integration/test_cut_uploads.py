"""An upload cut at any byte: at most what was outstanding and one offer are sent again."""

import asyncio
from pathlib import Path
from random import Random

from aggregator.part_files import SYNC_CHUNKS
from broker.link import LinkProfile
from simulator.fleet import AGGREGATOR, Fleet
from tests.integration.linear import LinearTask, some_settings
from tests.integration.watching import WatchedBroker, unwatched_loop

CHUNK_BYTES = 4096
N_CHUNKS = 8
THIN = LinkProfile(up_bytes_per_s=20_000.0, latency_s=0.02)
"""A chunk takes a fifth of a second, so that most of the upload lies between the first byte and the last."""
UPLOAD_S = (N_CHUNKS + 1) * (CHUNK_BYTES + 100) / 20_000.0
N_WITHIN = 10
"""Devices whose links are cut at a byte within."""


def _fleet(folder: Path, n_devices: int, n_chunks: int = N_CHUNKS) -> tuple[Fleet, WatchedBroker]:
    goal = {"report_goal": n_devices, "over_selection": 1.0, "quorum": 1.0}
    settings = some_settings(folder, round=goal, stop={"rounds": 1})
    task = LinearTask(padding=CHUNK_BYTES // 4 * (n_chunks - 1))
    fleet, broker = Fleet(settings, task, folder), WatchedBroker(seed=1)
    fleet.broker = broker
    return fleet, broker


class Cut:
    """Cuts one device's link once in mid-upload, and remembers what was outstanding then.

    Args:
        broker: of the device.
        device: its id.
        at_chunk: after so many PUBACKs of chunks; None: by time.
        after_s: of the first chunk.
    """

    def __init__(
        self, broker: WatchedBroker, device: str, *, at_chunk: int | None = None, after_s: float = 0.0
    ) -> None:
        self._broker, self._device, self._at_chunk, self._after_s = broker, device, at_chunk, after_s
        self.traffic = broker.traffic[device]
        self._n_acknowledged = 0
        self.outstanding: list[str] | None = None
        self.traffic.on_publish = self._published
        self.traffic.on_acknowledged = self._acknowledged

    def _published(self, topic: str, payload: bytes) -> None:
        if "/chunk/" not in topic or len(self.traffic.sent("chunk")) > 1:
            return
        if self._at_chunk is None:
            asyncio.get_running_loop().call_later(self._after_s, self.cut)
        elif self._at_chunk == 0:
            self._soon()

    def _acknowledged(self, topic: str) -> None:
        if "/chunk/" in topic:
            self._n_acknowledged += 1
            if self._n_acknowledged == self._at_chunk:
                self._soon()

    def _soon(self) -> None:
        asyncio.get_running_loop().call_soon(self.cut)

    def cut(self) -> None:
        """Now, if it has not happened yet."""
        if self.outstanding is None:
            self.outstanding = [topic for topic in self.traffic.outstanding if "/chunk/" in topic]
            self._broker.cut(self._device)


async def test_upload_that_is_cut_sends_again_only_what_was_outstanding(tmp_path: Path) -> None:
    """Many devices, each link cut once: before and after every PUBACK, and at bytes within; none sends more."""
    unwatched_loop()
    rng = Random(1)
    n_devices = N_CHUNKS + N_WITHIN
    fleet, broker = _fleet(tmp_path, n_devices)
    async with fleet:
        fleet.start_aggregator()
        cuts = []
        for i in range(n_devices):
            where = {"at_chunk": i} if i < N_CHUNKS else {"after_s": rng.uniform(0.0, UPLOAD_S)}
            cuts.append(Cut(broker, f"d{i}", **where))
            fleet.add(f"d{i}", link=THIN)
        result = await fleet.result()
    assert result.counts["accepted"] == n_devices
    assert sum(bool(cut.outstanding) for cut in cuts) > n_devices / 2
    for cut in cuts:
        assert cut.outstanding is not None
        assert len(set(cut.traffic.sent("chunk"))) == N_CHUNKS
        assert cut.traffic.again("chunk") <= len(cut.outstanding)
        assert cut.traffic.again("report") <= 1


async def test_aggregator_killed_in_mid_upload_asks_again_for_what_it_had_not_synchronised(tmp_path: Path) -> None:
    """Beside what was outstanding, at most the chunks since its last fdatasync, whatever had arrived."""
    unwatched_loop()
    n_chunks = 3 * SYNC_CHUNKS
    fleet, broker = _fleet(tmp_path, 4, n_chunks)
    async with fleet:
        fleet.start_aggregator()
        for i in range(4):
            fleet.add(f"d{i}", link=THIN)
        all_traffic = [broker.traffic[f"d{i}"] for i in range(4)]
        await fleet.until(lambda: min(len(traffic.sent("chunk")) for traffic in all_traffic) >= 2.5 * SYNC_CHUNKS)
        outstanding = [sum("/chunk/" in topic for topic in traffic.outstanding) for traffic in all_traffic]
        granted = [len(traffic.sent("chunk")) for traffic in all_traffic]
        await fleet.kill(AGGREGATOR)
        await asyncio.sleep(1.0)
        lost = [len(traffic.sent("chunk")) - n for traffic, n in zip(all_traffic, granted, strict=True)]
        fleet.start_aggregator()
        await fleet.result()
    for traffic, n_outstanding, n_lost in zip(all_traffic, outstanding, lost, strict=True):
        assert len(set(traffic.sent("chunk"))) == n_chunks
        # what was granted before the death and sent after it reached nobody
        assert 0 < traffic.again("chunk") <= n_outstanding + n_lost + SYNC_CHUNKS
