"""Spare files are used again, bounded, and given back."""

from pathlib import Path

import pytest

from aggregator import spare_files
from aggregator.spare_files import SpareFiles


def a_file(folder: Path, name: str, n_bytes: int = 100) -> Path:
    """A file of zeros."""
    path = folder / name
    path.write_bytes(bytes(n_bytes))
    return path


def test_spare_of_an_earlier_life_is_used(tmp_path: Path) -> None:
    """Under its new name; then there is none."""
    SpareFiles(tmp_path).retire(a_file(tmp_path, "a.update"))
    spares = SpareFiles(tmp_path)
    assert spares.n_bytes == 100
    assert spares.take(tmp_path / "b.part")
    assert [path.name for path in tmp_path.iterdir()] == ["b.part"]
    assert not spares.take(tmp_path / "c.part")


def test_what_is_too_much_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By bytes and by number."""
    monkeypatch.setattr(spare_files, "SPARE_BYTES", 250)
    spares = SpareFiles(tmp_path)
    for name in ("a", "b", "c"):
        spares.retire(a_file(tmp_path, f"{name}.update"))
    assert spares.n_bytes == 200
    monkeypatch.setattr(spare_files, "MAX_SPARES", 2)
    spares.retire(a_file(tmp_path, "d.update", 1))
    assert len(list(tmp_path.iterdir())) == 2


def test_all_are_given_back(tmp_path: Path) -> None:
    """And what somebody deleted meanwhile is no error."""
    spares = SpareFiles(tmp_path)
    for name in ("a", "b"):
        spares.retire(a_file(tmp_path, f"{name}.update"))
    (tmp_path / "b.spare").unlink()
    assert spares.take(tmp_path / "c.part")
    spares.retire(tmp_path / "missing.update")
    assert spares.give_back() == 0
