"""Disks that lose what was not synchronised, and machines that die within a call."""

import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from aggregator.journal_head import Head, HeadFile
from edge_client.state_folder import write_durably
from shared.durable import sync_folder
from simulator.disk_image import Image
from simulator.lossy_disk import Death, Died, LossyDisk, Machine, Step

SEEDS = range(40)
LARGE = bytes(range(256)) * 256


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine whose disk is lossy as long as the test lasts."""
    with LossyDisk() as disk:
        yield disk.machine("m", tmp_path / "m")


def write(path: Path, content: bytes, *, is_synced: bool = False) -> None:
    """Write a file, and synchronise its content, not its name."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        if is_synced:
            os.fsync(file.fileno())


def left(machine: Machine) -> list[Image]:
    """Return what power cuts of many seeds leave."""
    return [machine.image(Random(seed)) for seed in SEEDS]


def died_at(machine: Machine, death: Death, work: Callable[[], object]) -> Image:
    """Return what is left of a machine that dies in its work."""
    images: list[Image] = []
    machine.die_within(death, images.append)
    with pytest.raises(Died):
        machine.work(work)
    (image,) = images
    return image


def test_what_is_synchronised_survives_every_power_cut(machine: Machine) -> None:
    """Content and name, once both were synchronised, are there whatever is drawn."""
    machine.work(lambda: write_durably(machine.folder / "kept", LARGE))
    assert all(image.files["kept"] == LARGE for image in left(machine))


def test_name_that_is_not_synchronised_may_be_gone(machine: Machine) -> None:
    """The content of a new file is durable, its name is not: both ends are seen."""
    machine.work(lambda: write(machine.folder / "new", b"content", is_synced=True))
    assert {image.files.get("new") for image in left(machine)} == {None, b"content"}


def test_content_that_is_not_synchronised_is_torn_page_by_page(machine: Machine) -> None:
    """Old, new, and pages of both come to pass, and nothing else."""
    path = machine.folder / "file"
    old, new = bytes(16_384), b"\1" * 16_384

    def work() -> None:
        write_durably(path, old)
        with path.open("r+b") as file:
            file.write(new)

    machine.work(work)
    contents = {image.files["file"] for image in left(machine)}
    assert {old, new} < contents
    pages = {content[start : start + 4096] for content in contents for start in range(0, 16_384, 4096)}
    assert pages == {bytes(4096), b"\1" * 4096}


def test_killed_program_loses_nothing_that_it_wrote(machine: Machine) -> None:
    """SIGKILL ends a program, not the machine: the operating system has the pages."""
    machine.work(lambda: write(machine.folder / "file", b"content"))
    assert machine.image(None).files == {"file": b"content"}


def test_rename_stands_or_does_not(machine: Machine) -> None:
    """Until the folder is synchronised a renamed file has its old name or its new one, never both, never none."""

    def work() -> None:
        write_durably(machine.folder / "old", b"content")
        (machine.folder / "old").rename(machine.folder / "new")

    machine.work(work)
    assert {tuple(image.files) for image in left(machine)} == {("old",), ("new",)}
    machine.work(lambda: sync_folder(machine.folder))
    assert {tuple(image.files) for image in left(machine)} == {("new",)}


def test_deleted_file_may_come_back_whole(machine: Machine) -> None:
    """A deletion that was not synchronised may not have happened; what comes back is what was durable."""

    def work() -> None:
        write_durably(machine.folder / "file", LARGE)
        (machine.folder / "file").unlink()

    machine.work(work)
    assert {image.files.get("file") for image in left(machine)} == {None, LARGE}


def test_next_life_begins_on_what_is_left(machine: Machine) -> None:
    """The image is what the folder holds, all of it durable; what a dead program still writes is lost."""
    machine.work(lambda: write_durably(machine.folder / "a", b"1"))
    (machine.folder / "empty").mkdir()
    image = machine.image(None)
    write(machine.folder / "a", b"2")
    write(machine.folder / "b", b"too late")
    machine.restore(image)
    assert machine.image(None) == image
    assert left(machine) == [image] * len(SEEDS)


def journal(machine: Machine) -> sqlite3.Connection:
    """Open a database as the journal does."""
    connection = sqlite3.connect(machine.folder / "j.sqlite", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.executescript("CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, data BLOB)")
    return connection


def insert(connection: sqlite3.Connection, *numbers: int) -> None:
    """Commit a few rows."""
    with connection:
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO t VALUES (?, ?)", [(n, bytes(3000)) for n in numbers])


def rows(machine: Machine, image: Image) -> list[int]:
    """Return what the next life finds in the database."""
    machine.restore(image)

    def work() -> list[int]:
        connection = journal(machine)
        found = [n for (n,) in connection.execute("SELECT n FROM t ORDER BY n")]
        connection.close()
        return found

    return machine.work(work)


@pytest.mark.parametrize("is_power_cut", [False, True])
def test_commit_that_returned_is_there(machine: Machine, is_power_cut: bool) -> None:
    """Whatever is lost, a commit is not."""
    machine.work(lambda: insert(journal(machine), 1, 2, 3))
    assert rows(machine, machine.image(Random(1) if is_power_cut else None)) == [1, 2, 3]


@pytest.mark.parametrize("is_power_cut", [False, True])
def test_commit_that_was_cut_is_done_or_undone(machine: Machine, is_power_cut: bool) -> None:
    """All of its rows or none, and those before it; both ends come to pass, and logs torn in between."""
    ends, logs = set(), set()
    for seed in range(60):
        machine.restore(Image(("",), {}))
        connection = machine.work(lambda: journal(machine))
        machine.work(lambda connection=connection: insert(connection, 1))  # type: ignore[misc]
        death = Death(step=Step.COMMIT, is_power_cut=is_power_cut, seed=str(seed))
        image = died_at(machine, death, lambda connection=connection: insert(connection, 2, 3))  # type: ignore[misc]
        logs.add(image.files["j.sqlite-wal"])
        ends.add(tuple(rows(machine, image)))
    assert ends == {(1,), (1, 2, 3)}
    assert len(logs) > 2


def test_death_comes_before_within_or_after_the_call(machine: Machine) -> None:
    """A head file whose writer dies in its third write holds the second head or the third, whole or torn."""
    head = HeadFile(machine.folder / "head")
    seen = set()
    for seed in SEEDS:
        machine.restore(Image(("",), {}))

        def work() -> None:
            head.create()
            head.write(Head(1, bytes(32)))
            head.write(Head(2, bytes(32)))

        died_image = died_at(machine, Death(step=Step.WRITE, at=3, seed=str(seed)), work)
        head.close()
        machine.restore(died_image)
        found = head.read()
        head.close()
        assert found is not None
        seen.add(found.seq)
    assert seen == {1, 2}


def test_full_disk_takes_nothing(machine: Machine) -> None:
    """What would make more of it durable fails, a commit too; what is there stays readable."""
    connection = machine.work(lambda: journal(machine))
    machine.work(lambda: insert(connection, 1))
    machine.is_full = True
    with pytest.raises(sqlite3.OperationalError, match="full"):
        machine.work(lambda: insert(connection, 2))
    with pytest.raises(OSError, match="No space left"):
        machine.work(lambda: write_durably(machine.folder / "file", b"content"))
    machine.is_full = False
    machine.work(lambda: insert(connection, 3))
    assert rows(machine, machine.image(None)) == [1, 3]


def test_dishonest_disk_loses_what_it_says_it_has(tmp_path: Path) -> None:
    """With it every promise of durability is void: a commit that returned may be gone."""
    with LossyDisk(is_honest=False) as disk:
        machine = disk.machine("m", tmp_path / "m")
        machine.work(lambda: write_durably(machine.folder / "file", LARGE))
        assert {image.files.get("file") for image in left(machine)} > {None}
        machine.work(lambda: insert(journal(machine), 1))
        assert any("j.sqlite" not in image.files for image in left(machine))


def test_calls_are_as_they_were_afterwards(tmp_path: Path) -> None:
    """Outside of the context nothing is watched."""
    before = os.fsync, os.fdatasync, os.replace, os.rename, os.unlink, os.pwrite, sqlite3.connect
    with LossyDisk() as disk:
        disk.machine("m", tmp_path)
        assert os.fsync is not before[0]
    assert (os.fsync, os.fdatasync, os.replace, os.rename, os.unlink, os.pwrite, sqlite3.connect) == before
