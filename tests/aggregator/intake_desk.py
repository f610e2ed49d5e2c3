"""An intake at work, with real part files."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import numpy as np

from aggregator import events as ev
from aggregator.intake import Intake
from aggregator.part_files import PartFiles
from aggregator.uploads import Uploads
from shared.chunking import Bitmap, ChunkLayout
from shared.messages import Report
from shared.parameters import ParameterSpec
from shared.task import Initial
from simulator.inline_blocking import InlineBlocking
from tests.aggregator.builders import CHUNK_BYTES, lease_name

__all__ = ["LEASE", "N_PARAMS", "Desk", "an_update", "working"]

N_PARAMS = 5000
LEASE = lease_name(1)


def an_update(seed: int = 1, *, n_params: int = N_PARAMS) -> bytes:
    """Return what a device would send: five chunks."""
    return np.random.default_rng(seed).normal(size=n_params).astype("<f4").tobytes()


class FullDisk(PartFiles):
    """Part files on a disk that takes nothing while it is full."""

    is_full = False

    def begin(self, offer: Report) -> Bitmap:
        """See `PartFiles`."""
        if self.is_full:
            raise OSError(28, "No space left on device")
        return super().begin(offer)

    def write(self, lease: str, chunks: Iterable[tuple[int, bytes]]) -> int:
        """See `PartFiles`."""
        if self.is_full:
            raise OSError(28, "No space left on device")
        return super().write(lease, chunks)


class Desk:
    """An intake at work, its grants, its files, and what it told the machine."""

    def __init__(
        self,
        folder: Path,
        *,
        max_norm: float | None = None,
        n_params: int = N_PARAMS,
        max_bytes: int = 2**20,
        seed: int = 1,
    ) -> None:
        self.folder = folder
        self.files = FullDisk(folder)
        self.uploads = Uploads(max_bytes=max_bytes, max_chunks=500)
        self.told: list[ev.Event] = []
        self.intake = Intake(
            self.uploads,
            self.files,
            InlineBlocking(Random(seed)),
            spec=ParameterSpec.of(Initial({"w": np.zeros(n_params, np.float32)})),
            max_norm=max_norm,
            tell=self.told.append,
        )

    def offer(self, report: Report) -> None:
        """Let a believed report arrive, which the machine wants."""
        self.intake.offered(report)
        self.intake.take(report.lease)

    async def send(self, update: bytes, *, n_chunks: int | None = None, lease: str = LEASE) -> list[int]:
        """Let a device send what it is granted, at most so many chunks; returns which."""
        sent: list[int] = []
        for _ in range(100):
            await asyncio.sleep(0.1)
            for grant in self.uploads.grants(self.now, unwritten_bytes=self.intake.unwritten_bytes):
                for first, last in grant.ranges:
                    sent += [i for i in range(first, last + 1) if grant.lease == lease]
                    for index in range(first, last + 1):
                        if n_chunks is None or len(sent) <= n_chunks:
                            self.chunk(update, index, lease)
        return sent

    def chunk(self, update: bytes, index: int, lease: str = LEASE) -> None:
        """Let one chunk arrive."""
        layout = ChunkLayout(len(update), CHUNK_BYTES)
        self.intake.chunk(lease, index, bytes(layout.cut(update, index)), self.now)

    @property
    def now(self) -> float:
        """The loop's time."""
        return asyncio.get_running_loop().time()

    @property
    def files_there(self) -> list[str]:
        """What lies in the folder."""
        return sorted(path.suffix for path in self.folder.iterdir())


@asynccontextmanager
async def working(desk: Desk) -> AsyncIterator[Desk]:
    """Let it work."""
    work = asyncio.create_task(desk.intake.run(), name="intake")
    try:
        yield desk
    finally:
        work.cancel()
        await asyncio.wait([work])
