import pytest

from edge_client.final_leases import KEPT_FINALS, FinalLeases
from tests.edge_client.builders import lease


def test_last_64_leases_are_known_oldest_first() -> None:
    """Beyond them the oldest is forgotten."""
    finals = FinalLeases([lease(0)])
    assert all(finals.add(lease(number)) for number in range(1, KEPT_FINALS + 1))
    assert list(finals) == [lease(number) for number in range(1, KEPT_FINALS + 1)]
    assert lease(0) not in finals


def test_lease_is_added_once() -> None:
    """A repeated outcome changes nothing."""
    finals = FinalLeases([lease(1), lease(2)])
    assert not finals.add(lease(1))
    assert list(finals) == [lease(1), lease(2)]


def test_file_of_them_is_parsed_whole_or_not_at_all() -> None:
    """One word that is no lease spoils it, and is named by its line."""
    text = f"{lease(1)}\n{lease(2)}"
    assert list(FinalLeases.parsed(text.encode())) == [lease(1), lease(2)]
    with pytest.raises(ValueError, match="line 2 of 2 is no lease"):
        FinalLeases.parsed(text[:-1].encode())
