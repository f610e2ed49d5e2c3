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
