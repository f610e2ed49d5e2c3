"""Models on disk by their digest: chunks at their offset, a bitmap of those that are there, a quota.

Nothing unverified is ever used: an index counts when its digest is its name, a chunk when its digest stands in the
index. A bitmap read back after a reboot is a hint, and every chunk it names is checked again. What is damaged is named
in the log and fetched again.

Not here: asking the broker (`downloading.py`, `fetch_window.py`).
"""

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import structlog

from shared.chunking import Bitmap, ChunkLayout, sha256_hex
from shared.errors import InvalidState, PeerError, Reason
from shared.messages import ModelRef
from shared.parameters import Vector
from shared.wire import ModelIndex, decode_index

__all__ = ["CachedModel", "ModelCache"]


class CachedModel:
    """One model, whole or in part. Every method touches the disk.

    Args:
        folder: of this model alone.
        model: its name and sizes.
    """

    def __init__(self, folder: Path, model: ModelRef) -> None:
        self._folder, self.model = folder, model
        self._pieces: dict[int, bytes] = {}
        self._index: ModelIndex | None = None
        self._bitmap = Bitmap(0)
        self._index_layout = ChunkLayout(model.index_bytes, model.chunk_bytes)

    @property
    def index(self) -> ModelIndex | None:
        """What the model consists of; None: not there yet."""
        return self._index

    @property
    def is_whole(self) -> bool:
        """Whether every chunk is there."""
        return self._index is not None and self._bitmap.is_full

    @property
    def fraction(self) -> float:
        """How much is there, in [0, 1]."""
        return self._bitmap.n_set / self._bitmap.n if self._bitmap.n else 0.0

    def load(self) -> None:
        """Take up what an earlier life has fetched; what is damaged is named, and counts as missing."""
        try:
            if not (self._folder / "index").exists():
                self._load_pieces()
                return
            self._open(decode_index((self._folder / "index").read_bytes(), self.model))
            if (self._folder / "bitmap").exists():
                self._load_chunks(Bitmap(self._bitmap.n, (self._folder / "bitmap").read_bytes()))
            os.utime(self._folder)
        except (OSError, PeerError, InvalidState) as error:
            self._damaged(str(error))

    def _load_pieces(self) -> None:
        for piece in range(len(self._index_layout)):
            path = self._piece(piece)
            if path.exists() and len(data := path.read_bytes()) == self._index_layout.length(piece):
                self._pieces[piece] = data

    def _load_chunks(self, bits: Bitmap) -> None:
        with (self._folder / "chunks").open("rb") as file:
            for i in range(bits.n):
                if i in bits:
                    file.seek(self._layout.start(i))
                    if self._is_right(i, file.read(self._layout.length(i))):
                        self._bitmap.add(i)
        if self._bitmap.n_set < bits.n_set:  # a power cut may keep the bitmap and lose what it names
            self._damaged(f"{bits.n_set - self._bitmap.n_set} of {bits.n_set} chunks are not what they were")

    def _damaged(self, cause: str) -> None:
        log = structlog.get_logger()
        log.warning(
            "cached_model_damaged", folder=str(self._folder), cause=cause, so="what is missing is fetched again"
        )

    def missing_pieces(self) -> list[int]:
        """Return the pieces of the index that are to be fetched."""
        if self._index is not None:
            return []
        return [piece for piece in range(len(self._index_layout)) if piece not in self._pieces]

    def missing_chunks(self) -> list[int]:
        """Return the chunks that are to be fetched."""
        return list(self._bitmap.missing())

    def add_pieces(self, pieces: Iterable[tuple[int, bytes]]) -> list[int]:
        """Keep numbered pieces of the index; return the numbers of those that can be right.

        Raises:
            OSError: the disk takes no more; the pieces so far are kept in memory.
        """
        right: list[int] = []
        for piece, data in pieces:
            if not 0 <= piece < len(self._index_layout) or len(data) != self._index_layout.length(piece):
                continue
            self._pieces[piece] = data
            if len(self._index_layout) > 1:  # a single one is fetched again as quickly as it is read
                self._folder.mkdir(parents=True, exist_ok=True)
                self._piece(piece).write_bytes(data)
            right.append(piece)
        return right

    def complete_index(self) -> ModelIndex:
        """Put the pieces together.

        Raises:
            PeerError: together they are not the index of that name; all pieces are to be fetched again.
            OSError: the disk takes no more.
        """
        # two downloads of one model share this object: the other may have been here first, with or without success
        if self._index is not None:
            return self._index
        if missing := self.missing_pieces():
            raise PeerError(Reason.DIGEST, f"pieces {missing[:8]} of the index are to be fetched again")
        payload = b"".join(self._pieces[piece] for piece in range(len(self._index_layout)))
        self._pieces.clear()
        for piece in range(len(self._index_layout)):
            self._piece(piece).unlink(missing_ok=True)
        index = decode_index(payload, self.model)
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "index").write_bytes(payload)  # not synchronised: what a power cut takes is fetched again
        chunks = self._folder / "chunks"
        if chunks.exists() and chunks.stat().st_size == index.size:  # the index alone was damaged
            self.load()
        else:
            self._open(index)
            (self._folder / "bitmap").unlink(missing_ok=True)
            with chunks.open("wb") as file:
                file.truncate(index.size)
        return index

    def add_chunks(self, chunks: Iterable[tuple[int, bytes]]) -> list[int]:
        """Keep numbered chunks; return the numbers of those that are what the index names.

        Raises:
            OSError: the disk takes no more.
        """
        right = [(i, data) for i, data in chunks if 0 <= i < self._bitmap.n and self._is_right(i, data)]
        new = {i: data for i, data in right if i not in self._bitmap}
        if new:
            with _opened(self._folder / "chunks") as file:
                for i, data in new.items():
                    os.pwrite(file, data, self._layout.start(i))
            for i in new:
                self._bitmap.add(i)
            with _opened(self._folder / "bitmap") as file:  # over the old one: to truncate it first costs a flush
                os.pwrite(file, self._bitmap.to_bytes(), 0)
        return [i for i, _ in right]

    def read(self) -> Vector:
        """Return the whole model: (n_params,) float32.

        Raises:
            InvalidState: it is not whole.
            OSError: it cannot be read, or is not what was fetched; it counts as missing from then on.
        """
        if self._index is None or not self.is_whole:
            raise InvalidState(f"model {self.model.digest} is not whole")
        data = np.fromfile(self._folder / "chunks", np.uint8)
        if sha256_hex(data.data) != self._index.sha256:
            self._bitmap.clear()
            self._damaged("it is not what was fetched")
            raise OSError(f"the model on disk is damaged, and will be fetched again: {self._folder}")
        return data.view("<f4").astype(np.float32, copy=False)

    def _piece(self, piece: int) -> Path:
        return self._folder / f"piece-{piece}"

    @property
    def _layout(self) -> ChunkLayout:
        assert self._index is not None
        return self._index.layout

    def _open(self, index: ModelIndex) -> None:
        self._index = index
        self._bitmap = Bitmap(len(index.layout))

    def _is_right(self, i: int, data: bytes) -> bool:
        assert self._index is not None
        return len(data) == self._layout.length(i) and hashlib.sha256(data).digest() == self._index.chunks[i]


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class ModelCache:
    """The models of one device.

    Args:
        folder: one folder a digest lies below it.
        quota_bytes: models kept; the one used longest ago goes first, the one in use never.
    """

    def __init__(self, folder: Path, quota_bytes: int) -> None:
        self._folder, self._quota_bytes = folder, quota_bytes
        self._log = structlog.get_logger()

    def open(self, model: ModelRef) -> CachedModel:
        """Return what there is of a model. Touches the disk."""
        cached = CachedModel(self._folder / model.digest, model)
        cached.load()
        return cached

    def make_room(self, in_use: CachedModel) -> None:
        """Delete models of the past until all fit into the quota; what cannot be deleted stays. Touches the disk."""
        index = in_use.index
        if index is None:
            raise InvalidState("room for a model of unknown size")
        try:
            self._delete_oldest(index.size, in_use.model.digest)
        except OSError as error:
            self._log.warning("models_not_dropped", cause=str(error), folder=str(self._folder))

    def _delete_oldest(self, total: int, in_use: str) -> None:
        others = [path for path in self._folder.iterdir() if path.is_dir() and path.name != in_use]
        for path in sorted(others, key=lambda path: path.stat().st_mtime_ns, reverse=True):
            total += sum(file.stat().st_size for file in path.iterdir())
            if total > self._quota_bytes:
                shutil.rmtree(path, ignore_errors=True)
                self._log.info("model_dropped", digest=path.name)
