import itertools
from typing import Any

import pytest
from pydantic import ValidationError

from simulator.scenarios.faults import (
    NO_FAULTS,
    DeathKind,
    DeviceFaults,
    FleetFault,
    cut_off,
    deaths,
    drops_out,
    instants,
)


def test_deaths_come_as_often_as_written_and_another_kind_moves_none() -> None:
    """Mean time between crashes; adding reboots leaves every crash where it was."""
    crashes = list(itertools.islice(deaths(DeviceFaults(crash_every_s=100), seed=1, device="d"), 2000))
    assert 90 < crashes[-1].at_s / 2000 < 110
    both = deaths(DeviceFaults(crash_every_s=100, reboot_every_s=50), seed=1, device="d")
    mixed = list(itertools.islice(both, 300))
    assert mixed == sorted(mixed)
    kept = [death for death in mixed if death.kind is DeathKind.CRASH]
    assert kept == crashes[: len(kept)]
    assert len(kept) < 200


def test_device_without_faults_never_dies() -> None:
    """The default is a device of which nothing is heard but its work."""
    assert list(deaths(NO_FAULTS, seed=1, device="d")) == []
    assert drops_out(NO_FAULTS, seed=1, device="d", training=1) is None


def test_dropouts_are_as_many_as_their_chance() -> None:
    """Each training draws its own lot, and how far it comes."""
    faults = DeviceFaults(dropout=0.2)
    drawn = [drops_out(faults, seed=1, device="d", training=n) for n in range(2000)]
    shares = [share for share in drawn if share is not None]
    assert 0.17 < len(shares) / 2000 < 0.23
    assert 0.4 < sum(shares) / len(shares) < 0.6
    assert drawn == [drops_out(faults, seed=1, device="d", training=n) for n in range(2000)]


def test_instants_are_once_or_again_and_again() -> None:
    """at_s is one instant; every_s begins after the first time has passed."""
    assert list(instants(FleetFault(kind="broker_restart", at_s=120))) == [120]
    again = instants(FleetFault(kind="aggregator_restart", every_s=60))
    assert list(itertools.islice(again, 3)) == [60, 120, 180]


def test_partition_cuts_its_share_and_another_one_cuts_others() -> None:
    """⌈0.3 x 10⌉ = 3 of ten, in their order, drawn anew each time."""
    ids = [f"d{i}" for i in range(10)]
    first = cut_off(ids, 0.3, seed=1, number=1)
    assert len(first) == 3
    assert list(first) == sorted(first)
    assert first == cut_off(ids, 0.3, seed=1, number=1)
    assert len({cut_off(ids, 0.3, seed=1, number=n) for n in range(8)}) > 1
    assert cut_off(ids, 1.0, seed=1, number=1) == tuple(ids)
    assert len(cut_off(ids, 0.01, seed=1, number=1)) == 1


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ({"kind": "broker_restart"}, "at_s or every_s"),
        ({"kind": "broker_restart", "at_s": 1, "every_s": 9}, "at_s or every_s"),
        ({"kind": "partition", "at_s": 1}, "share"),
        ({"kind": "broker_restart", "at_s": 1, "share": 0.5}, "share"),
        ({"kind": "aggregator_restart", "every_s": 5, "lasts_s": 5}, "never be over"),
        ({"kind": "aggregator_restart", "at_s": 5, "keeps_retained": True}, "keeps_retained"),
        ({"kind": "partition", "at_s": -1, "share": 0.1}, "greater than or equal to 0"),
    ],
)
def test_impossible_fault_is_refused(written: dict[str, Any], says: str) -> None:
    """What cannot be carried out is said when the scenario is read."""
    with pytest.raises(ValidationError, match=says):
        FleetFault.model_validate(written)
