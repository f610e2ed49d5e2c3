"""Whether a run's folder can be gone on with, looked at before anything is created or changed in it.

A run whose journal is gone must not begin anew over its own versions, nor get an empty journal that is taken for its
own later. And whoever asks what a start would do has to hear of damage, too.

Not here: the start itself (`opening.py`), what can be done about damage (`damage.py`).
"""

from pathlib import Path

from aggregator.journal_file import head_path
from aggregator.journal_head import Head, HeadFile
from aggregator.journal_rows import ChainedRow, record_of
from aggregator.journal_scan import damaged, from_copies, repair_hint, scanned
from aggregator.model_store import ModelStore
from aggregator.part_files import PartFiles
from aggregator.records import CommitRecord
from aggregator.run_folder import anew_hint
from aggregator.update_file import RowCopies
from shared.errors import ConfigError, InvalidState

__all__ = ["refuse_damaged", "refuse_lost_journal"]


def refuse_lost_journal(folder: Path, *, is_empty: bool = False) -> None:
    """Refuse to begin anew where a run has been.

    Args:
        folder: of the run; it need not be there.
        is_empty: whether its journal is known to have no row; else one that is there is not looked into.

    Raises:
        ConfigError: there is no journal, but there is what only a run with a journal leaves.
    """
    journal, versions, updates = folder / "journal.sqlite", folder / "versions", folder / "updates"
    if not is_empty and (journal.exists() or head_path(journal).exists()):
        return
    kept = ModelStore(versions).versions() if versions.is_dir() else []
    n_updates = len(PartFiles(updates).finished()) if updates.is_dir() else 0
    if kept in ([], [0]) and not n_updates:
        return
    raise ConfigError(
        f"there is no journal, but versions {', '.join(map(str, kept)) or 'none'} and {n_updates} updates are there",
        where=str(journal),
        hint=f"nothing was changed; {anew_hint(folder, kept)}",
    )


def refuse_damaged(folder: Path) -> None:
    """Refuse a run that a start would refuse for its journal or its newest version. Writes nothing; it may be served.

    Raises:
        ConfigError: what is damaged, and the command that says what can be done.
    """
    refuse_lost_journal(folder)
    journal = folder / "journal.sqlite"
    head = _head_of(journal)  # before the rows: those of a run that is served only become more
    if head is None and not journal.exists():
        return
    version: int | None = None

    def see(each: ChainedRow) -> None:
        nonlocal version
        try:
            record = record_of(each.row)
        except InvalidState as error:
            raise damaged(journal, f"row {each.end.seq} is {error}") from error
        if isinstance(record, CommitRecord):
            version = record.version

    try:
        end, fault = scanned(journal, head, see)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(journal)) from error
    copies = RowCopies(folder / "updates")
    is_back = fault is not None and fault.is_missing and any(e.end == head for e in from_copies(end, copies.kept()))
    if fault is not None and not is_back:  # else a start brings these rows back
        raise damaged(journal, fault.what)
    if version is not None:
        try:
            ModelStore(folder / "versions").load(version)
        except ConfigError as error:
            raise ConfigError(error.what, where=error.where, hint=f"{error.hint}; {repair_hint(folder)}") from error


def _head_of(journal: Path) -> Head | None:
    head_file = HeadFile(head_path(journal))
    try:
        return head_file.read()
    finally:
        head_file.close()
