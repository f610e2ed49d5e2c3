import os
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import structlog

from edge_client.files import OnDisk
from edge_client.model_cache import CachedModel, ModelCache
from shared.chunking import ChunkLayout, sha256_hex
from shared.errors import InvalidState, PeerError
from shared.messages import ModelRef
from shared.parameters import ParameterSpec
from shared.task import Initial
from shared.wire import ModelIndex, encode_index

CHUNK = 4096


class Published:
    """A model as an aggregator has it.

    Args:
        n_params: how large it is.
        value: of every parameter.
    """

    def __init__(self, n_params: int = 5000, value: float = 1.0) -> None:
        self.spec = ParameterSpec.of(Initial({"w": np.zeros(n_params, np.float32)}))
        self.blob = np.full(n_params, value, "<f4").tobytes()
        layout = ChunkLayout(len(self.blob), CHUNK)
        self.chunks = [bytes(layout.cut(self.blob, i)) for i in range(len(layout))]
        index = ModelIndex(
            spec=self.spec,
            size=len(self.blob),
            chunk_bytes=CHUNK,
            sha256=sha256_hex(self.blob),
            chunks=tuple(sha256(chunk).digest() for chunk in self.chunks),
        )
        self.index = encode_index(index)
        self.ref = ModelRef(version=0, digest=sha256_hex(self.index), index_bytes=len(self.index), chunk_bytes=CHUNK)
        pieces = ChunkLayout(len(self.index), CHUNK)
        self.pieces = [bytes(pieces.cut(self.index, j)) for j in range(len(pieces))]

    def fill(self, cached: CachedModel, chunks: int | None = None) -> None:
        """Give index and chunks to a cache."""
        for j in cached.missing_pieces():
            assert cached.add_pieces([(j, self.pieces[j])])
        if cached.index is None:
            cached.complete_index()
        for i in cached.missing_chunks()[:chunks]:
            assert cached.add_chunks([(i, self.chunks[i])])


def test_model_is_whole_once_every_chunk_is_there(tmp_path: Path) -> None:
    """And then it reads back as it was."""
    model, cache = Published(), ModelCache(OnDisk(tmp_path), 10**9)
    cached = cache.open(model.ref)
    model.fill(cached, chunks=2)
    assert not cached.is_whole
    assert cached.fraction == 2 / 5
    with pytest.raises(InvalidState):
        cached.read()
    model.fill(cached)
    assert cached.read().tolist() == [1.0] * 5000


def test_fetch_resumes_after_a_reboot(tmp_path: Path) -> None:
    """Only what is missing is fetched again."""
    model = Published()
    model.fill(ModelCache(OnDisk(tmp_path), 10**9).open(model.ref), chunks=3)
    cached = ModelCache(OnDisk(tmp_path), 10**9).open(model.ref)
    assert cached.missing_pieces() == []
    assert cached.missing_chunks() == [3, 4]


def test_chunk_damaged_on_disk_is_fetched_again(tmp_path: Path) -> None:
    """A bitmap is a hint: each chunk is checked again when it is read back."""
    model = Published()
    model.fill(ModelCache(OnDisk(tmp_path), 10**9).open(model.ref))
    path = tmp_path / model.ref.digest / "chunks"
    data = bytearray(path.read_bytes())
    data[2 * CHUNK + 5] ^= 1
    path.write_bytes(data)
    assert ModelCache(OnDisk(tmp_path), 10**9).open(model.ref).missing_chunks() == [2]


@pytest.mark.parametrize("name", ["index", "bitmap", "chunks"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut"])
def test_damaged_file_is_fetched_again(tmp_path: Path, name: str, damage: str) -> None:
    """Whatever happened to the cache, the model becomes whole again."""
    model = Published()
    model.fill(ModelCache(OnDisk(tmp_path), 10**9).open(model.ref))
    path = tmp_path / model.ref.digest / name
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(data[: len(data) // 2] if damage == "cut" else b"")
    cached = ModelCache(OnDisk(tmp_path), 10**9).open(model.ref)
    model.fill(cached)
    assert cached.read().tolist() == [1.0] * 5000


def test_wrong_chunk_is_refused(tmp_path: Path) -> None:
    """A chunk counts when its digest stands in the index."""
    model = Published()
    cached = ModelCache(OnDisk(tmp_path), 10**9).open(model.ref)
    model.fill(cached, chunks=0)
    wrong = bytes(CHUNK)
    for i, data in [(0, wrong), (0, model.chunks[0][:-1]), (4, model.chunks[0]), (5, model.chunks[0]), (-1, wrong)]:
        assert not cached.add_chunks([(i, data)])
    assert cached.missing_chunks() == [0, 1, 2, 3, 4]


def test_wrong_index_is_refused_as_a_whole(tmp_path: Path) -> None:
    """Its digest is its name; which piece was wrong nobody knows, so all are fetched again."""
    model = Published()
    cached = ModelCache(OnDisk(tmp_path), 10**9).open(model.ref)
    assert not cached.add_pieces([(0, model.pieces[0][:-1])])
    assert not cached.add_pieces([(1, b"")])
    assert cached.add_pieces([(0, bytes(len(model.pieces[0])))])
    with pytest.raises(PeerError):
        cached.complete_index()
    assert cached.missing_pieces() == [0]
    assert cached.index is None


def test_index_that_two_downloads_complete_is_opened_once(tmp_path: Path) -> None:
    """The second takes what the first has opened, chunks and all, or learns that it is to be fetched again."""
    model = Published()
    cached = ModelCache(OnDisk(tmp_path), 10**9).open(model.ref)
    with pytest.raises(PeerError, match="to be fetched again"):
        cached.complete_index()
    model.fill(cached)
    index = cached.index
    assert cached.complete_index() is index
    assert cached.is_whole


def test_quota_drops_the_model_used_longest_ago(tmp_path: Path) -> None:
    """The one in use never goes."""
    models = [Published(value=value) for value in range(3)]
    cache = ModelCache(OnDisk(tmp_path), 3 * len(models[0].blob) - 1)
    for age, model in enumerate(models):
        cached = cache.open(model.ref)
        model.fill(cached)
        os.utime(tmp_path / model.ref.digest, (age, age))
    cache.open(models[0].ref)  # used again just now
    cache.make_room(cached)
    assert [(tmp_path / model.ref.digest).exists() for model in models] == [True, False, True]
    ModelCache(OnDisk(tmp_path), 1).make_room(cached)
    assert [(tmp_path / model.ref.digest).exists() for model in models] == [False, False, True]


def test_model_that_cannot_be_deleted_stays(tmp_path: Path) -> None:
    """A cache over its quota is better than a device that ends."""
    model, cache = Published(), ModelCache(OnDisk(tmp_path), 1)
    cached = cache.open(model.ref)
    model.fill(cached)
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "link").symlink_to(tmp_path / "nowhere")
    cache.make_room(cached)
    assert cached.is_whole


def reopened(folder: Path, model: Published) -> tuple[CachedModel, list[str]]:
    """What there is of a model after a reboot, and what the log names."""
    with structlog.testing.capture_logs() as logs:
        cached = ModelCache(OnDisk(folder), 10**9).open(model.ref)
    return cached, [line["event"] for line in logs]


def test_damaged_chunk_is_named_and_fetched_again(tmp_path: Path) -> None:
    """It alone: the others are there."""
    model = Published()
    model.fill(ModelCache(OnDisk(tmp_path), 10**9).open(model.ref))
    with (tmp_path / model.ref.digest / "chunks").open("r+b") as file:
        file.seek(2 * CHUNK)
        file.write(b"?")
    cached, named = reopened(tmp_path, model)
    assert cached.missing_chunks() == [2]
    assert named == ["cached_model_damaged"]


@pytest.mark.parametrize("name", ["index", "bitmap"])
def test_damaged_index_or_bitmap_is_named_and_fetched_again(tmp_path: Path, name: str) -> None:
    """Without the bitmap nothing is believed; without the index the chunks are there again as soon as it has come."""
    model = Published()
    model.fill(ModelCache(OnDisk(tmp_path), 10**9).open(model.ref))
    (tmp_path / model.ref.digest / name).write_bytes(b"?")
    cached, named = reopened(tmp_path, model)
    assert named == ["cached_model_damaged"]
    assert not cached.is_whole
    if name == "index":
        assert cached.add_pieces([(0, model.index)])
        cached.complete_index()
        assert cached.is_whole
    else:
        assert cached.missing_chunks() == [0, 1, 2, 3, 4]


def test_nothing_is_named_for_a_model_that_was_never_here(tmp_path: Path) -> None:
    """Nor for one whose first chunk has not come."""
    model = Published()
    assert reopened(tmp_path, model)[1] == []
    model.fill(ModelCache(OnDisk(tmp_path), 10**9).open(model.ref), chunks=0)
    assert reopened(tmp_path, model)[1] == []


def test_pieces_of_an_index_survive_a_reboot(tmp_path: Path) -> None:
    """The index of a large model in small chunks takes a thin link minutes."""
    model = Published(n_params=300_000)
    cached = ModelCache(OnDisk(tmp_path), 10**9).open(model.ref)
    n_pieces = len(model.pieces)
    assert n_pieces > 2
    for piece in range(n_pieces - 1):
        cached.add_pieces([(piece, model.pieces[piece])])
    cached, named = reopened(tmp_path, model)
    assert (cached.missing_pieces(), named) == ([n_pieces - 1], [])
    cached.add_pieces([(n_pieces - 1, model.pieces[n_pieces - 1])])
    cached.complete_index()
    assert cached.missing_pieces() == []
    assert not list((tmp_path / model.ref.digest).glob("piece-*"))


def test_model_that_changed_on_disk_is_never_trained_with(tmp_path: Path) -> None:
    """The disk broke after the last chunk was checked: it is named, and counts as missing."""
    model = Published()
    cached = ModelCache(OnDisk(tmp_path), 10**9).open(model.ref)
    model.fill(cached)
    with (tmp_path / model.ref.digest / "chunks").open("r+b") as file:
        file.write(b"?")
    with structlog.testing.capture_logs() as logs, pytest.raises(OSError, match="will be fetched again"):
        cached.read()
    assert [line["event"] for line in logs] == ["cached_model_damaged"]
    assert cached.missing_chunks() == [0, 1, 2, 3, 4]
