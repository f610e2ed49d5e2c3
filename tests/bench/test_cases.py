import pytest

from bench.cases import GRID, Case
from shared.errors import ConfigError


@pytest.mark.parametrize("case", GRID)
def test_case_reads_what_it_writes(case: Case) -> None:
    """A case in a table is a case on the command line."""
    assert Case.parse(str(case)) == case


def test_case_counts_bytes_in_both_directions() -> None:
    """Ten devices fetch 1 MiB each and send 1 MiB each: 20 MiB are moved."""
    case = Case.parse(" 10x1MiB ")
    assert (case.n_devices, case.model_bytes, case.n_params, case.moved_bytes) == (10, 2**20, 2**18, 20 * 2**20)


def test_case_below_a_mebibyte_is_written_in_kibibytes() -> None:
    """Sizes stay whole numbers."""
    assert str(Case(n_devices=2, model_bytes=64 * 2**10)) == "2x64KiB"
    assert str(Case.parse("2x1024KiB")) == "2x1MiB"


@pytest.mark.parametrize("text", ["", "10", "10x", "0x1MiB", "10x0MiB", "10x1MB", "10x1.5MiB", "-1x1MiB", "10x1MiBx"])
def test_case_of_another_form_is_refused_with_an_example(text: str) -> None:
    """The operator is shown what a case looks like."""
    with pytest.raises(ConfigError, match="10x1MiB"):
        Case.parse(text)
