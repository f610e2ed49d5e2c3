"""Models on disk by their digest: chunks at their offset, a bitmap of those that are there, a quota.

Nothing unverified is ever used: an index counts when its digest is its name, a chunk when its digest stands in the
index. A bitmap read back after a reboot is a hint, and every chunk it names is checked again. What is damaged is named
in the log and fetched again.

Not here: asking the broker (`downloading.py`, `fetch_window.py`).
"""

import hashlib
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import structlog

from edge_client.files import Files
from shared.chunking import Bitmap, ChunkLayout, sha256_hex
from shared.errors import InvalidState, PeerError, Reason
from shared.messages import ModelRef
from shared.parameters import Vector
from shared.wire import ModelIndex, decode_index

__all__ = ["CachedModel", "ModelCache"]


INDEX, CHUNKS, BITMAP = "index", "chunks", "bitmap"

_index_of = lru_cache(2)(decode_index)
"""Devices of one process fetch the same models: their spec and their digests are kept once."""


class CachedModel:
    """One model, whole or in part. Every method touches the disk.

    Args:
        files: of this model alone.
        model: its name and sizes.
    """

    def __init__(self, files: Files, model: ModelRef) -> None:
        self._files, self.model = files, model
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
            if not self._files.has(INDEX):
                self._load_pieces()
                return
            self._open(_index_of(self._files.read(INDEX), self.model))
            if self._files.has(BITMAP):
                self._load_chunks(Bitmap(self._bitmap.n, self._files.read(BITMAP)))
            self._files.touch()
        except (OSError, PeerError, InvalidState) as error:
            self._damaged(str(error))

    def _load_pieces(self) -> None:
        for piece in range(len(self._index_layout)):
            name = _piece(piece)
            if self._files.has(name) and len(data := self._files.read(name)) == self._index_layout.length(piece):
                self._pieces[piece] = data

    def _load_chunks(self, bits: Bitmap) -> None:
        with self._files.open(CHUNKS) as file:
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
            "cached_model_damaged", folder=str(self._files.path), cause=cause, so="what is missing is fetched again"
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
                self._files.write(_piece(piece), data)
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
        if len(self._index_layout) > 1:
            for piece in range(len(self._index_layout)):
                self._files.delete(_piece(piece))
        index = _index_of(payload, self.model)
        self._files.write(INDEX, payload)  # not synchronised: what a power cut takes is fetched again
        if self._files.has(CHUNKS) and self._files.size(CHUNKS) == index.size:  # the index alone was damaged
            self.load()
        else:
            self._open(index)
            self._files.delete(BITMAP)
            self._files.allocate(CHUNKS, index.size)
        return index

    def add_chunks(self, chunks: Iterable[tuple[int, bytes]]) -> list[int]:
        """Keep numbered chunks; return the numbers of those that are what the index names.

        Raises:
            OSError: the disk takes no more.
        """
        right = [(i, data) for i, data in chunks if 0 <= i < self._bitmap.n and self._is_right(i, data)]
        new = {i: data for i, data in right if i not in self._bitmap}
        if new:
            self._files.write_at(CHUNKS, {self._layout.start(i): data for i, data in new.items()})
            for i in new:
                self._bitmap.add(i)
            self._files.write_at(BITMAP, {0: self._bitmap.to_bytes()})
        return [i for i, _ in right]

    def read(self) -> Vector:
        """Return the whole model: (n_params,) float32.

        Raises:
            InvalidState: it is not whole.
            OSError: it cannot be read, or is not what was fetched; it counts as missing from then on.
        """
        if self._index is None or not self.is_whole:
            raise InvalidState(f"model {self.model.digest} is not whole")
        data = self._files.array(CHUNKS)
        if sha256_hex(data.data) != self._index.sha256:
            self._bitmap.clear()
            self._damaged("it is not what was fetched")
            raise OSError(f"the model on disk is damaged, and will be fetched again: {self._files.path}")
        return data.view("<f4").astype(np.float32, copy=False)

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


def _piece(piece: int) -> str:
    return f"piece-{piece}"


class ModelCache:
    """The models of one device.

    Args:
        files: one folder a digest lies below it.
        quota_bytes: models kept; the one used longest ago goes first, the one in use never.
    """

    def __init__(self, files: Files, quota_bytes: int) -> None:
        self._files, self._quota_bytes = files, quota_bytes
        self._log = structlog.get_logger()

    def open(self, model: ModelRef) -> CachedModel:
        """Return what there is of a model. Touches the disk."""
        cached = CachedModel(self._files.below(model.digest), model)
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
            self._log.warning("models_not_dropped", cause=str(error), folder=str(self._files.path))

    def _delete_oldest(self, total: int, in_use: str) -> None:
        for digest in self._files.newest_first():
            if digest != in_use:
                total += self._files.size(digest)
                if total > self._quota_bytes:
                    self._files.delete(digest)
                    self._log.info("model_dropped", digest=digest)
