"""What devices keep on this machine, for people: finished reports, and files that were set aside as damaged.

Looking is harmless; discarding and retrying hold the device's lock, so they are refused while it runs.

Not here: the device's own use of these files (`outbox.py`, `local_state.py`), printing (`outbox_command.py`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from edge_client.final_leases import FINALS, FinalLeases
from edge_client.local_state import CURRENT, read_state
from edge_client.report_files import REPORT, read_report
from edge_client.state_folder import DAMAGED, lock_folder, sync_folder
from shared.errors import ConfigError

__all__ = ["KeptFile", "Kind", "device_folders", "discard", "kept_files", "retry"]


class Kind(StrEnum):
    """What a file is, and in which condition."""

    REPORT = "report"
    DAMAGED_REPORT = "damaged report"
    DAMAGED_STATE = "damaged state"
    DAMAGED_FINALS = "damaged list of final leases"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptFile:
    """One file.

    Args:
        name: the lease of a report, the run of a local state, `final_leases`.
        kind: what it is.
        path: where it lies.
        n_bytes: of the file.
        run: which run it belongs to; "" when a damaged report does not say.
        stored_at: wall-clock seconds; when the file was last written.
        cause: why it is set aside; "" when it reads well (again).
    """

    name: str
    kind: Kind
    path: Path
    n_bytes: int
    run: str
    stored_at: float
    cause: str

    @property
    def device(self) -> Path:
        """The folder of its device."""
        return self.path.parent.parent


def device_folders(folder: Path) -> list[Path]:
    """Return the devices in a folder: itself, where it is one device's, or those of every fleet below it.

    Raises:
        ConfigError: there is none.
    """
    found = [folder] if _is_device(folder) else [path for path in sorted(folder.glob("*/*")) if _is_device(path)]
    if not found:
        raise ConfigError(
            "no device keeps anything here", where=str(folder), hint="name the folder it was started with: --folder"
        )
    return found


def kept_files(device: Path) -> list[KeptFile]:
    """Return what a device keeps, damaged files first."""
    found = [*_kept(device / "outbox", DAMAGED, Kind.DAMAGED_REPORT)]  # the list of final leases among them
    found += _kept(device / "state", DAMAGED, Kind.DAMAGED_STATE)
    found += _kept(device / "outbox", REPORT, Kind.REPORT)
    return found


def discard(file: KeptFile) -> None:
    """Delete a file for good.

    Raises:
        AlreadyServed: the device runs.
        ConfigError: it cannot be deleted.
    """
    with lock_folder(file.device):
        _change(file, file.path.unlink)
        if file.kind in (Kind.REPORT, Kind.DAMAGED_REPORT):
            for pending in (file.device / "state").glob(f"{file.name}.*"):
                _change(file, pending.unlink)


def retry(file: KeptFile) -> None:
    """Put a file that was set aside back to use, if it is whole by now.

    Raises:
        AlreadyServed: the device runs.
        ConfigError: it is not set aside, is damaged still, or another has taken its place.
    """
    if file.kind is Kind.REPORT:
        raise ConfigError("is not set aside: the device offers it by itself", where=file.name)
    back = file.path.with_suffix(_SUFFIXES[file.kind])
    with lock_folder(file.device):
        if cause := _cause(file.path, file.kind):
            raise ConfigError(f"is damaged still: {cause}", where=file.name, hint=f"repair {file.path}, or discard it")
        if back.exists():
            raise ConfigError(
                f"{back} has taken its place", where=file.name, hint="discard this one, or move that one away"
            )
        _change(file, lambda: file.path.replace(back))
        sync_folder(back.parent)


_SUFFIXES = {Kind.DAMAGED_REPORT: REPORT, Kind.DAMAGED_STATE: CURRENT, Kind.DAMAGED_FINALS: ""}
"""What each file is called when it is whole."""


def _is_device(folder: Path) -> bool:
    return (folder / "outbox").is_dir()


def _kept(folder: Path, suffix: str, kind: Kind) -> Iterator[KeptFile]:
    for path in sorted(folder.glob(f"*{suffix}")):
        try:
            facts = path.stat()
        except FileNotFoundError:  # its outcome came while we looked
            continue
        kind = Kind.DAMAGED_FINALS if path.name == FINALS + DAMAGED else kind
        yield KeptFile(
            name=path.stem,
            kind=kind,
            path=path,
            n_bytes=facts.st_size,
            run=path.stem if kind is Kind.DAMAGED_STATE else "" if kind is Kind.DAMAGED_FINALS else _run(path),
            stored_at=facts.st_mtime,
            cause="" if kind is Kind.REPORT else _cause(path, kind),
        )


def _run(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return read_report(file, path.stem).report.run
    except (OSError, ValueError):
        return ""


def _cause(path: Path, kind: Kind) -> str:
    try:
        if kind is Kind.DAMAGED_REPORT:
            with path.open("rb") as file:
                read_report(file, path.stem)
        elif kind is Kind.DAMAGED_FINALS:
            FinalLeases.parsed(path.read_bytes())
        else:
            read_state(path.read_bytes())
    except (OSError, ValueError) as error:
        return str(error)
    return ""


def _change(file: KeptFile, act: Callable[[], object]) -> None:
    try:
        act()
    except OSError as error:
        raise ConfigError(f"cannot be changed: {error.strerror}", where=str(file.path)) from error
