"""Mending a damaged run: a copy first, then what costs nothing, and what is given up only where the operator says so.

The journal is written anew beside the old one and takes its place in one step; accepted updates whose file is damaged
are voided by a row of the journal; files that cannot be used are moved to the copy. Whatever happens in between, the
next `repair` finds a run that is refused, or one that is whole.

Not here: what is damaged (`damage.py`), what of a journal can be proved (`salvage.py`).
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from aggregator.damage import DISCARD_AFTER, FROM_NEWEST, VOID, Examination, Finding, Plan
from aggregator.journal_file import JournalFile, clock_of, write_anew
from aggregator.journal_head import HeadFile
from aggregator.journal_rows import row_of
from aggregator.journal_scan import scanned
from aggregator.lost_journal import refuse_lost_journal
from aggregator.model_store import ModelStore
from aggregator.records import Record, VoidRecord
from aggregator.run_folder import RunFolder
from aggregator.salvage import Salvage
from aggregator.update_file import RowCopies
from shared.errors import AlreadyServed, ConfigError

__all__ = ["RepairReport", "repair"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairReport:
    """What was found, and what was done.

    Args:
        folder: of the run.
        findings: what was damaged.
        gives_up: what is lost by the cure, a line each.
        brings_back: accepted updates whose row is lost, which the next start admits again.
        needs: options with which it is done, those that were given included; none: nothing is missing.
        missing: those of them that were not given.
        is_whole: whether the run can be started now.
        backup: where everything lies as it was; None: nothing was changed.
    """

    folder: Path
    findings: tuple[Finding, ...]
    gives_up: tuple[str, ...]
    brings_back: tuple[str, ...]
    needs: tuple[str, ...]
    missing: tuple[str, ...]
    is_whole: bool
    backup: Path | None

    def lines(self) -> Iterator[str]:
        """Yield it for people."""
        if not self.findings:
            yield f"{self.folder}: nothing is damaged"
            return
        for each in self.findings:
            yield f"{each.where}\n  {each.what}\n  cure: {each.cure}"
        for title, lines in (("given up", self.gives_up), ("admitted again at the next start", self.brings_back)):
            if lines:
                yield "\n  ".join((f"{title}:", *lines))
        if self.backup is not None:
            yield f"done; everything as it was lies in {self.backup}"
        elif self.needs:
            if len(self.missing) < len(self.needs):
                yield f"what was given is not enough: {' and '.join(self.missing)} is needed as well"
            yield f"nothing was changed; to do this: python -m aggregator repair {self.folder} {' '.join(self.needs)}"
        else:
            yield "nothing was changed: the same command without --dry-run does this"


def repair(
    folder: Path,
    *,
    discard_after: int | None = None,
    void: bool = False,
    from_newest: bool = False,
    dry_run: bool = False,
) -> RepairReport:
    """Look at a run, and mend it as far as the operator allows.

    Args:
        folder: of the run.
        discard_after: the row after which everything may be given up; None: nothing.
        void: whether accepted updates may be given up whose file is missing or damaged.
        from_newest: whether rows may be given up that are lost before the newest version.
        dry_run: look only.

    Raises:
        AlreadyServed: the run is served.
        ConfigError: there is no run, nothing of it is left, or an option does not fit what is damaged.
    """
    refuse_lost_journal(folder)
    if not any((folder / name).exists() for name in ("journal.sqlite", "journal.head")):
        raise ConfigError("there is no journal of a run", where=str(folder), hint="is it runs/<name>?")
    if discard_after is not None and from_newest:
        raise ConfigError("one of them is enough", where=f"{DISCARD_AFTER}, {FROM_NEWEST}", hint="leave one out")
    try:
        return _repaired(folder, discard_after=discard_after, void=void, from_newest=from_newest, dry_run=dry_run)
    except AlreadyServed as error:
        hint = "stop that process first: Ctrl-C where it runs, or a SIGTERM; then do it again"
        raise AlreadyServed(error.what, where=error.where, hint=hint) from error
    except OSError as error:
        hint = "nothing was replaced that has no copy: make room, or make the folder writable, and do it again"
        raise ConfigError(f"cannot be repaired: {error}", where=str(folder), hint=hint) from error


def _repaired(folder: Path, *, discard_after: int | None, void: bool, from_newest: bool, dry_run: bool) -> RepairReport:
    with RunFolder(folder) as run:
        with _examining(run) as (salvage, examination):
            plan = examination.plan(discard_after=discard_after, void=void, from_newest=from_newest)
            is_due = bool(plan.findings) and not plan.needs and not dry_run
            backup = _carry_out(run, salvage, plan) if is_due else None
        if is_due:
            with _examining(run) as (_, examination):
                left = examination.plan(discard_after=None, void=False, from_newest=False).findings
            if left:
                what = "; ".join(f"{each.where}: {each.what}" for each in left)
                raise ConfigError(f"is still damaged: {what}", where=str(folder), hint=f"as it was: {backup}")
    return RepairReport(
        folder=folder,
        findings=tuple(plan.findings),
        gives_up=tuple(plan.gives_up),
        brings_back=tuple(plan.brings_back),
        needs=_options(plan.needs, discard_after, void=void, from_newest=from_newest),
        missing=tuple(plan.needs),
        is_whole=is_due or not plan.findings,
        backup=backup,
    )


def _options(missing: list[str], discard_after: int | None, *, void: bool, from_newest: bool) -> tuple[str, ...]:
    if not missing:
        return ()
    given = [f"{DISCARD_AFTER} {discard_after}"] if discard_after is not None else []
    given += [FROM_NEWEST] if from_newest else []
    given += [VOID] if void else []
    if any(each.startswith(DISCARD_AFTER) for each in missing):  # the row that was given is not far enough back
        given = [each for each in given if not each.startswith(DISCARD_AFTER)]
    return (*given, *missing)


@contextmanager
def _examining(run: RunFolder) -> Iterator[tuple[Salvage, Examination]]:
    """Look at a copy of the journal: SQLite changes what it reads."""
    with tempfile.TemporaryDirectory(prefix=".repair-", dir=run.path) as scratch:
        journal = Path(scratch) / run.journal.name
        for source in _parts(run.journal):
            shutil.copy2(source, scratch)
        head_file = HeadFile(run.head)
        head = head_file.read()
        head_file.close()
        _, fault = scanned(journal, head, lambda _: None)
        salvage = Salvage(journal, head, RowCopies(run.updates))
        try:
            yield salvage, Examination(run, salvage, head, fault)
        finally:
            salvage.close()


def _carry_out(run: RunFolder, salvage: Salvage, plan: Plan) -> Path:
    """Do what was planned; return where everything lies as it was."""
    backup = _backup(run)
    if plan.is_rewritten:
        _write_journal(run, salvage, plan)
    records: list[Record] = [VoidRecord(into=each.into, lease=each.lease) for each in plan.voided]
    records += plan.leased
    if records:
        journal = JournalFile(run.journal, RowCopies(run.updates))
        journal.open()
        try:
            journal.append([row_of(record) for record in records])
            journal.confirm()
        finally:
            journal.close()
    for path in plan.set_aside:
        os.replace(path, backup / path.name)
    store = ModelStore(run.versions)
    for state in plan.remade:
        store.save(state)
    return backup


def _backup(run: RunFolder) -> Path:
    backup = Path(tempfile.mkdtemp(prefix=f"before-repair-{datetime.now().astimezone():%Y%m%d-%H%M%S}-", dir=run.path))
    for source in (*_parts(run.journal), run.head):
        if source.exists():
            shutil.copy2(source, backup)
    _sync(*backup.iterdir(), backup, run.path)
    return backup


def _write_journal(run: RunFolder, salvage: Salvage, plan: Plan) -> None:
    """Put the rows that stay in the place of the journal, and say in the head file how many they are."""
    journal, head = (path.with_name(f"{path.name}.new") for path in (run.journal, run.head))
    for path in (journal, head):
        path.unlink(missing_ok=True)
    rows = salvage.rows_to(plan.end.seq) if plan.bridge is None else plan.bridge.rows(salvage)
    write_anew(journal, rows, clock_of(salvage.clock_text))
    head_file = HeadFile(head)
    head_file.create()
    head_file.write(plan.end)
    head_file.close()
    # with its new head the old journal is still refused; its log must not meet the new one
    os.replace(head, run.head)
    for path in _parts(run.journal):
        if path != run.journal:
            path.unlink()
    os.replace(journal, run.journal)
    _sync(run.path)


def _parts(journal: Path) -> list[Path]:
    """Return the files of a database that are there."""
    return [path for end in ("", "-wal", "-shm") if (path := journal.with_name(journal.name + end)).exists()]


def _sync(*paths: Path) -> None:
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
