from typing import Any

import pytest

from aggregator.config import SelectionSettings
from aggregator.quotas import DAY_S, Quotas
from aggregator.records import LeaseRecord
from shared.messages import Kind
from tests.aggregator.builders import lease_name

NOW_S = 1_800_000_000.0


def quotas(*leases: tuple[int, float], kind: Kind = Kind.TRAIN, **settings: Any) -> Quotas:
    """Quotas after the device d0 was given leases in these rounds, at these seconds after `NOW_S`."""
    found = Quotas(SelectionSettings(**settings))
    for number, (round_id, at_s) in enumerate(leases):
        found.asked(
            LeaseRecord(
                lease=lease_name(number),
                device="d0",
                round_id=round_id,
                kind=kind,
                base_version=0,
                codec="float32",
                max_bytes=4,
                given_at_s=NOW_S + at_s,
            )
        )
    return found


def test_nothing_is_barred_without_a_quota() -> None:
    """A device may be asked twice in one round, when its first lease came to nothing."""
    found = quotas((1, 0.0), (1, 1.0))
    assert not found.are_set
    assert not found.bars("d0", 1, NOW_S)


@pytest.mark.parametrize(("round_id", "is_barred"), [(10, True), (12, True), (13, False)])
def test_separation_counts_rounds_from_one_participation_to_the_next(round_id: int, is_barred: bool) -> None:
    """With 3, a device of round 10 may be asked in round 13 again; others are not concerned."""
    found = quotas((4, 0.0), (10, 0.0), min_separation=3)
    assert found.bars("d0", round_id, NOW_S) is is_barred
    assert not found.bars("d1", round_id, NOW_S)


def test_day_is_any_24_hours() -> None:
    """Two leases at 0 and 100 s: the third may be given a day after the first."""
    found = quotas((1, 0.0), (2, 100.0), max_per_day=2)
    assert found.wait_s("d0", 3, NOW_S + 200.0) == DAY_S - 200.0
    assert not found.bars("d0", 3, NOW_S + DAY_S)
    assert not quotas((1, 0.0), max_per_day=2).bars("d0", 2, NOW_S)


def test_clock_that_is_set_back_bars_nobody_for_more_than_a_day() -> None:
    """By a year, as that of a Raspberry Pi without a battery."""
    assert quotas((1, 0.0), max_per_day=1).wait_s("d0", 2, NOW_S - 365 * DAY_S) == DAY_S


def test_evaluations_do_not_count() -> None:
    """They cost a device little, and no privacy."""
    found = quotas((1, 0.0), kind=Kind.EVALUATE, min_separation=5, max_per_day=1)
    assert not found.bars("d0", 1, NOW_S)


def test_wait_is_as_long_as_rounds_take() -> None:
    """Three rounds of ten seconds each are left: thirty seconds."""
    found = quotas((4, 0.0), min_separation=4)
    for began in (0.0, 10.0, 20.0):
        found.round_began(began)
    assert found.wait_s("d0", 5, NOW_S) == 30.0
