"""A device's folder on disk and in memory: the rooms must not be able to tell which it is."""

from pathlib import Path

import pytest

from edge_client.files import Files, OnDisk
from shared.errors import AlreadyServed
from simulator.memory_files import InMemory


@pytest.fixture(params=["on disk", "in memory"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    """A folder that does not exist yet."""
    path = tmp_path / "device"
    return OnDisk(path) if request.param == "on disk" else InMemory(str(path))


def test_folder_that_is_not_there_has_nothing_in_it(files: Files) -> None:
    """A device that never works leaves no trace, and reading one is no error."""
    assert (files.names(""), files.newest_first(), files.has("a")) == ([], [], False)
    files.delete("a")
    with pytest.raises(FileNotFoundError, match="No such file"):
        files.read("a")
    with pytest.raises(FileNotFoundError):
        files.rename("a", "b")
    assert not files.path.exists()


def test_what_is_written_is_read(files: Files) -> None:
    """Whole files, in pieces or at once, old ones replaced."""
    files.make()
    files.write_durably("a.x", b"old")
    files.write_durably("a.x", b"n", b"ew")
    files.write_whole("b.y", b"whole")
    files.below("deep").write("c.x", b"below")
    assert (files.read("a.x"), files.read("b.y"), files.below("deep").read("c.x")) == (b"new", b"whole", b"below")
    assert files.names(".x") == ["a.x"]
    assert (files.size("b.y"), files.size("deep")) == (5, 5)
    with files.open("b.y") as file:
        file.seek(2)
        assert file.read(2) == b"ol"


def test_pieces_lie_at_their_offset(files: Files) -> None:
    """Chunks come in any order, over zeros, over themselves and across one another."""
    files.allocate("chunks", 6)
    files.write_at("chunks", {4: b"ef", 0: b"ab"})
    assert files.read("chunks") == b"ab\0\0ef"
    files.write_at("chunks", {0: b"AB", 1: b"xyz"})
    assert files.read("chunks") == b"Axyzef"
    files.write_at("chunks", {5: b"12"})
    assert files.array("chunks").tobytes() == b"Axyze12"
    files.write_at("bits", {0: b"\1"})
    assert files.read("bits") == b"\1"


def test_array_is_ones_own(files: Files) -> None:
    """A task that changes a model in place does not change the file."""
    files.write("model", b"\1\2")
    files.array("model")[:] = 0
    assert files.read("model") == b"\1\2"


def test_renamed_file_takes_the_place_of_another(files: Files) -> None:
    """As current state does."""
    files.make()
    files.write_durably("new", b"1")
    files.write_durably("old", b"2")
    files.rename("new", "old")
    files.sync()
    assert (files.names(""), files.read("old")) == (["old"], b"1")


def test_folder_used_last_is_the_newest(files: Files) -> None:
    """The model that was used longest ago is the first to go."""
    for name in ("a", "b", "c"):
        files.below(name).write("chunks", b"1")
    files.below("a").touch()
    assert files.newest_first()[0] == "a"
    files.delete("a")
    assert (files.has("a"), files.below("a").names("")) == (False, [])


def test_lock_of_a_real_folder_holds_against_everybody(tmp_path: Path) -> None:
    """On disk there may be another process; in memory there is none."""
    with OnDisk(tmp_path).lock(), pytest.raises(AlreadyServed), OnDisk(tmp_path).lock():
        pass
    with InMemory("device").lock():
        assert not Path("device").exists()
