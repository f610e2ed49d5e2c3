"""Rows of updates in a file: what is read back, what is refused, and that nothing stays."""

import gc
from pathlib import Path

import numpy as np
import pytest

from aggregator.update_rows import UpdateRows
from shared.errors import InvalidState


def blocks(vector: np.ndarray, size: int = 4) -> list[tuple[int, np.ndarray]]:
    """Return a vector in blocks."""
    return [(start, vector[start : start + size]) for start in range(0, len(vector), size)]


def test_any_columns_are_read_back_to_the_bit(tmp_path: Path) -> None:
    """Scaled as they were added."""
    updates = np.random.default_rng(1).standard_normal((5, 30)).astype(np.float32)
    rows = UpdateRows(tmp_path, 30)
    for update, scale in zip(updates, (1.0, 0.5, 1.0, 2.0, 1.0), strict=True):
        rows.append(blocks(update), scale)
    wanted = updates * np.array([1, 0.5, 1, 2, 1], dtype=np.float32)[:, None]
    assert rows.n_rows == 5
    for start, stop in ((0, 30), (7, 8), (29, 30), (3, 22)):
        assert (rows.columns(start, stop) == wanted[:, start:stop]).all()
    rows.close()


def test_a_tiny_factor_is_applied_to_the_last_digit(tmp_path: Path) -> None:
    """What is clipped from 3e38 a value to a norm of 1e-5 has that norm, not a third more."""
    rows, huge = UpdateRows(tmp_path, 1000), np.full(1000, 3e38, np.float32)
    rows.append([(0, huge)], 1e-5 / float(np.linalg.norm(huge.astype(np.float64))))
    assert np.linalg.norm(rows.columns(0, 1000).astype(np.float64)) == pytest.approx(1e-5, rel=1e-6)


def test_an_update_that_is_not_whole_is_taken_back(tmp_path: Path) -> None:
    """A short one, and one with a gap; the next one stands in its place."""
    rows = UpdateRows(tmp_path, 8)
    vector = np.arange(8, dtype=np.float32)
    for wrong in (blocks(vector)[:1], blocks(vector)[1:], blocks(np.ones(12, np.float32))):
        with pytest.raises(InvalidState):
            rows.append(wrong, 1.0)
    rows.append(blocks(vector), 1.0)
    assert rows.n_rows == 1
    assert (rows.columns(0, 8) == vector).all()
    rows.close()


def test_nothing_of_it_has_a_name(tmp_path: Path) -> None:
    """So that nothing stays after a crash."""
    rows = UpdateRows(tmp_path, 8)
    rows.append(blocks(np.zeros(8, np.float32)), 1.0)
    assert list(tmp_path.iterdir()) == []
    rows.close()


def test_rows_that_nobody_has_any_more_take_no_room(tmp_path: Path) -> None:
    """Those of a version that is folded again, or of a run that has failed."""
    rows = UpdateRows(tmp_path, 8)
    file = rows._file
    del rows
    gc.collect()
    assert file.closed
