"""What is left of a folder: a copy in memory, and what of it a power cut leaves.

Of each file remains what was last synchronised, and of later writes any pages or none. Of each folder remain the names
as they were last synchronised; later changes to names stand or do not stand, a renamed file never under both names.

Not here: when anything is synchronised (`lossy_disk.py`).
"""

import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import NamedTuple, TypeAlias

__all__ = ["Durable", "Entry", "Image", "listing", "mixed", "survivors"]

PAGE_BYTES = 4096
"""What a disk writes as a whole, or not."""


class Entry(NamedTuple):
    """What a name in a folder stands for."""

    inode: int
    is_folder: bool


Listing: TypeAlias = Mapping[str, Entry]


@dataclass(slots=True)
class Durable:
    """What is known to be on the disk, by what was synchronised.

    Args:
        contents: of files, by inode.
        listings: of folders, by their path below the machine's folder, "" for itself.
        pins: descriptors that keep an inode's number from being used again.
    """

    contents: dict[int, bytes] = field(default_factory=dict)
    listings: dict[str, Listing] = field(default_factory=dict)
    pins: dict[int, int] = field(default_factory=dict)

    def file_synced(self, descriptor: int, inode: int, content: bytes) -> None:
        """A file was synchronised."""
        if inode not in self.pins:
            self.pins[inode] = os.dup(descriptor)
        self.contents[inode] = content

    def folder_synced(self, folder: str, listing: Listing) -> None:
        """A folder was synchronised; files that are gone for good are forgotten."""
        gone = {entry.inode for entry in self.listings.get(folder, {}).values()}
        self.listings[folder] = listing
        for inode in gone - {entry.inode for entry in listing.values()}:
            if inode in self.pins and not os.fstat(self.pins[inode]).st_nlink:
                os.close(self.pins.pop(inode))
                del self.contents[inode]

    def close(self) -> None:
        """Forget everything."""
        for descriptor in self.pins.values():
            os.close(descriptor)
        self.pins.clear()


@dataclass(frozen=True, slots=True)
class Image:
    """A folder and everything below it.

    Args:
        folders: their paths below the machine's folder, parents first; "" for itself.
        files: content by path.
    """

    folders: tuple[str, ...]
    files: Mapping[str, bytes]

    def write(self, folder: Path) -> Durable:
        """Make this what the folder holds; all of it is durable then."""
        _empty(folder)
        durable = Durable()
        for path in self.folders:
            (folder / path).mkdir(exist_ok=True)
        for path, content in self.files.items():
            with (folder / path).open("wb") as file:
                file.write(content)
                file.flush()
                durable.file_synced(file.fileno(), os.fstat(file.fileno()).st_ino, content)
        for path in self.folders:
            durable.folder_synced(path, listing(folder / path))
        return durable


def listing(folder: Path | str) -> Listing:
    """Return what is in a folder now."""
    with os.scandir(folder) as entries:
        return {entry.name: Entry(entry.inode(), entry.is_dir(follow_symlinks=False)) for entry in entries}


def survivors(folder: Path, durable: Durable, rng: Random | None, durable_files: Collection[str] = ()) -> Image:
    """Return what is in a folder now; with a source of chance: what is left when the power goes.

    Args:
        folder: of a machine.
        durable: what was synchronised in it.
        rng: None: the machine goes on, only a program ends.
        durable_files: paths below it whose content is durable whatever else is known.
    """
    folders: list[str] = []
    files: dict[str, bytes] = {}

    def visit(path: str, is_there: bool) -> None:
        folders.append(path)
        now = listing(folder / path) if is_there else {}
        left = now if rng is None else _names_left(durable.listings.get(path, {}), now, rng, path, durable_files)
        for name, entry in sorted(left.items()):
            below = f"{path}/{name}" if path else name
            is_now = now.get(name) == entry
            if entry.is_folder:
                visit(below, is_now)
                continue
            synced = durable.contents.get(entry.inode, b"")
            written = (folder / below).read_bytes() if is_now else _elsewhere(folder / path, entry, now)
            if written is None:
                files[below] = synced
            else:
                files[below] = written if rng is None or below in durable_files else mixed(synced, written, rng)

    visit("", True)
    return Image(tuple(folders), files)


def mixed(old: bytes, new: bytes, rng: Random) -> bytes:
    """Return what is left of a file whose writes from `old` to `new` were not synchronised: any of its pages."""
    if old == new:
        return old
    choice = rng.random()
    if choice < 0.25:
        return old
    if choice < 0.5:
        return new
    size = rng.choice((len(old), len(new), rng.randint(min(len(old), len(new)), max(len(old), len(new)))))
    pages = []
    for start in range(0, size, PAGE_BYTES):
        stop = min(start + PAGE_BYTES, size)
        page = rng.choice((old, new))[start:stop]
        pages.append(page + bytes(stop - start - len(page)))
    return b"".join(pages)


def _names_left(old: Listing, now: Listing, rng: Random, path: str, durable_files: Collection[str]) -> Listing:
    """Return the names that are left: for each inode, all changes to its names or none."""
    kept = {name: entry for name, entry in now.items() if old.get(name) == entry}
    groups: list[tuple[set[str], set[int]]] = []
    for name in sorted(old.keys() | now.keys()):
        if name in kept:
            continue
        names, inodes = {name}, {each[name].inode for each in (old, now) if name in each}
        for other in [group for group in groups if group[1] & inodes]:
            groups.remove(other)
            names |= other[0]
            inodes |= other[1]
        groups.append((names, inodes))
    for names, _ in groups:
        is_new = rng.random() < 0.5
        for name in names:
            is_durable = (f"{path}/{name}" if path else name) in durable_files
            source = now if is_new or is_durable else old
            if name in source:
                kept[name] = source[name]
    return kept


def _elsewhere(folder: Path, entry: Entry, now: Listing) -> bytes | None:
    """Return what a file holds whose old name is back and that has another one now; None: it was deleted."""
    name = next((name for name, other in now.items() if other == entry), None)
    return None if name is None else (folder / name).read_bytes()


def _empty(folder: Path) -> None:
    for path in list(folder.iterdir()):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
