"""A real journal, cut anywhere and with any bit flipped: it opens with every row that counts, or is refused by name.

The journal is that of a run that was killed in its second life: the rows of the first are in the database, those of
the second in SQLite's log, and its last three are updates in files. Everybody was told of every row.
"""

import os
import random
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from aggregator.journal_file import JournalFile, head_path
from aggregator.journal_head import HeadFile
from aggregator.journal_rows import ChainedRow, copies_of, lies_in_file
from aggregator.journal_scan import connect, journalled
from aggregator.update_file import RowCopies
from shared.errors import ConfigError
from tests.aggregator.killed_run import RUN, a_killed_run

N_FLIPS = 5000
N_PARTS = 10
NAMED = re.compile(r"\brows? \d+|head file|database is damaged")


class Bench:
    """Files of the journal in memory, to be damaged in one folder again and again."""

    def __init__(self, run: Path, folder: Path) -> None:
        self.folder, self.path = folder, folder / "journal.sqlite"
        shutil.copytree(run / "updates", folder / "updates")
        self.files = {
            name: (run / name).read_bytes() for name in ("journal.sqlite", "journal.sqlite-wal", "journal.head")
        }
        self.copies = RowCopies(folder / "updates")
        self.put()
        self.rows: list[ChainedRow] = list(journalled(self.path))
        self.copied = {row.end.seq for copy in self.copies.kept() for row in copies_of(copy)}

    def put(self, **damaged: bytes | None) -> None:
        """Put the files there as they were; of those that are named, what is given."""
        for name in (*self.files, "journal.sqlite-shm"):
            content = damaged.get(name.replace(".", "_").replace("-", "_"), self.files.get(name))
            (self.folder / name).unlink(missing_ok=True)
            if content is not None:
                (self.folder / name).write_bytes(content)

    def opened(self) -> str | None:
        """Open what lies there; return what is said when it is refused, None when every row came back."""
        before, refusal = self._bytes(), None
        journal = JournalFile(self.path, self.copies)
        try:
            journal.open()
        except ConfigError as error:
            refusal = error
        if refusal is not None:
            assert self._bytes() == before, "a journal that is refused was changed"
            assert f"aggregator repair {self.folder}" in str(refusal)
            assert NAMED.search(refusal.what), refusal.what
            return refusal.what
        try:
            assert list(journalled(self.path)) == self.rows, "rows that somebody was told of are gone"
        finally:
            journal.close()
        return None

    def _bytes(self) -> dict[str, bytes]:
        # an empty log is none
        found = {name: path.read_bytes() for name in self.files if (path := self.folder / name).exists()}
        return {name: content for name, content in found.items() if content}


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    """A folder in memory where there is one: thousands of synchronised writes follow."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def bench(memory: Path) -> Bench:
    """A real journal: two lives, inline updates and updates in files, every sort of row that a sound run has."""
    run = a_killed_run(memory / "killed")
    (memory / "bench").mkdir()
    bench = Bench(run.folder / RUN, memory / "bench")
    kinds = Counter(each.row.kind for each in bench.rows)
    assert kinds.keys() == {"epoch", "config", "round", "lease", "accept", "close", "commit", "outcome"}
    assert len(bench.files["journal.sqlite"]) > 4096 < len(bench.files["journal.sqlite-wal"])
    assert [lies_in_file(each.row) for each in bench.rows[-4:]] == [False, True, True, True]
    return bench


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Rows that come back are logged: thousands of times here."""
    with structlog.testing.capture_logs():
        yield


def test_untouched_journal_opens(bench: Bench) -> None:
    """What is not damaged is not refused."""
    bench.put()
    assert bench.opened() is None


def test_every_prefix_of_rows_comes_back_from_files_or_is_refused(bench: Bench) -> None:
    """Rows lost at the end: updates in files bring theirs back, to the bit; the first that none holds is named."""
    n = len(bench.rows)
    for n_left in range(n + 1):
        bench.put()
        connection = connect(bench.path, is_writable=True)
        connection.execute("DELETE FROM journal WHERE seq > ?", (n_left,))
        connection.close()
        said = bench.opened()
        lost = next((seq for seq in range(n_left + 1, n + 1) if seq not in bench.copied), None)
        assert (said is None) == (lost is None) == (n_left >= n - 3)
        assert said is None or re.search(rf"rows? {lost}\b", said), said


def test_rows_after_the_head_come_back_with_those_before_it(bench: Bench) -> None:
    """Killed between a copy and the head file: what is proved is taken, however far it reaches."""
    head_file = HeadFile(head_path(bench.path))
    bench.put()
    head_file.create()
    head_file.write(bench.rows[-2].end)
    head_file.close()
    connection = connect(bench.path, is_writable=True)
    connection.execute("DELETE FROM journal WHERE seq > ?", (len(bench.rows) - 3,))
    connection.close()
    assert bench.opened() is None


def test_prefix_whose_files_are_gone_too_is_refused(bench: Bench) -> None:
    """What nothing holds any more is not silently forgotten, not even the very last row."""
    n = len(bench.rows)
    empty = RowCopies(bench.folder / "nothing")
    bench.put()
    connection = connect(bench.path, is_writable=True)
    connection.execute("DELETE FROM journal WHERE seq = ?", (n,))
    connection.close()
    with pytest.raises(ConfigError, match=f"row {n} is missing"):
        JournalFile(bench.path, empty).open()


@pytest.mark.parametrize("name", ["journal.sqlite", "journal.sqlite-wal", "journal.head"])
def test_file_cut_anywhere_loses_no_row_silently(bench: Bench, name: str) -> None:
    """At every page and frame, around each, and anywhere else."""
    whole, rng = bench.files[name], random.Random(name)
    frame = 4096 + 24
    edges = [*range(0, len(whole), 4096), *range(32, len(whole), frame)]
    near = {edge + offset for edge in edges for offset in (-1, 0, 1, 24)}
    cuts = sorted({at for at in near if 0 <= at < len(whole)} | set(rng.sample(range(len(whole)), 100)))
    outcomes = Counter[bool]()
    for at in cuts:
        bench.put(**{name.replace(".", "_").replace("-", "_"): whole[:at]})
        outcomes[bench.opened() is None] += 1
    assert outcomes[False] > len(cuts) / 3
    assert outcomes[True] or name == "journal.sqlite"


@pytest.mark.parametrize("name", ["journal.sqlite", "journal.sqlite-wal", "journal.head"])
def test_file_that_is_gone_is_refused(bench: Bench, name: str) -> None:
    """Nobody begins anew where rows have been."""
    bench.put(**{name.replace(".", "_").replace("-", "_"): None})
    assert bench.opened() is not None


@pytest.mark.parametrize("part", range(N_PARTS))
def test_flipped_bit_loses_no_row_silently(bench: Bench, part: int) -> None:
    """Anywhere in the database, its log and the head file: every row is there to the bit, or it is refused by name."""
    rng = random.Random(f"flips {part}")
    outcomes: Counter[tuple[str, bool]] = Counter()
    for _ in range(N_FLIPS // N_PARTS):
        name = rng.choices(list(bench.files), weights=(4, 4, 1))[0]
        content = bytearray(bench.files[name])
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        bench.put(**{name.replace(".", "_").replace("-", "_"): bytes(content)})
        outcomes[name, bench.opened() is None] += 1
    assert outcomes["journal.sqlite", False]
    assert outcomes["journal.sqlite-wal", False]
    assert outcomes["journal.sqlite-wal", True]
    assert outcomes["journal.head", True]
