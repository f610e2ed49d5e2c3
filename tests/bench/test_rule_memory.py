from pathlib import Path

import pytest

from bench.rule_memory import measure
from shared.errors import FederationError

MIB = 2**20


def test_memory_is_that_of_a_block_of_columns_however_many_updates_there_are(tmp_path: Path) -> None:
    """Eighty MiB more of updates take less than a quarter of that; the version is their median."""
    few, many = (measure("median", n_updates=n, update_bytes=MIB, folder=tmp_path) for n in (30, 110))
    assert (few.update_bytes, many.n_updates) == (MIB, 110)
    assert few.before_bytes < few.peak_bytes
    assert many.peak_bytes - few.peak_bytes < 20 * MIB
    assert list(tmp_path.iterdir()) == []


def test_rule_that_there_is_not_is_named(tmp_path: Path) -> None:
    """By what the process has said."""
    with pytest.raises(FederationError, match="no such rule"):
        measure("loudest", n_updates=2, update_bytes=1024, folder=tmp_path)
