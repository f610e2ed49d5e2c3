import itertools
import math
from typing import Any

import pytest
from pydantic import ValidationError

from simulator.scenarios.availability import ALWAYS, Absence, Availability, Span, spans
from simulator.scenarios.traces import Trace

H = 3600.0


def _first(n: int, availability: Availability, **options: Any) -> list[Span]:
    return list(itertools.islice(spans(availability, **{"seed": 1, "device": "d", **options}), n))


def test_always_has_no_end() -> None:
    """Whoever is always there has one span."""
    assert _first(9, ALWAYS) == [(0.0, math.inf)]
    assert ALWAYS.is_always


def test_hours_over_midnight_are_one_span_a_night() -> None:
    """22 to 6: the run begins in the midst of a night, and midnight ends nothing."""
    nights = Availability(hours=[(22, 6)])
    assert _first(3, nights) == [(0.0, 6 * H), (22 * H, 30 * H), (46 * H, 54 * H)]
    assert nights.absence is Absence.OFF


def test_run_may_begin_at_another_hour() -> None:
    """At 5 in the morning, one hour of the night is left."""
    assert _first(2, Availability(hours=[(22, 6)]), start_hour=5) == [(0.0, H), (17 * H, 25 * H)]


def test_several_spans_a_day_keep_their_order() -> None:
    """However they are written."""
    assert _first(3, Availability(hours=[(12, 13), (1, 2)])) == [(H, 2 * H), (12 * H, 13 * H), (25 * H, 26 * H)]


def test_charging_is_drawn_anew_each_night_and_for_each_device() -> None:
    """A function of seed, device and night, within an hour of what is written; some nights it is forgotten."""
    charging = Availability.model_validate({"charging": {"from": 22, "to": 7, "chance": 0.5}})
    mine = _first(40, charging)
    assert mine == _first(40, charging)
    assert mine != _first(40, charging, device="e")
    for start, end in mine[1:]:
        assert 22 * H <= start % (24 * H) <= 23 * H
        assert 6 * H <= end % (24 * H) <= 7 * H
    nights = mine[-1][0] // (24 * H) + 1
    assert 0.3 < len(mine) / nights < 0.7


def test_trace_begins_anew_after_its_last_row() -> None:
    """What was measured for a day goes on for as long as the run does."""
    traced = Availability.model_validate({"trace": "t.csv"})
    assert _first(3, traced, trace=Trace("a", ((10, 20),), 30)) == [(10, 20), (40, 50), (70, 80)]
    assert traced.absence is Absence.OUT_OF_REACH


def test_trace_that_is_always_up_is_for_ever() -> None:
    """Repeats that touch are no absence."""
    (only,) = _first(9, Availability.model_validate({"trace": "t.csv"}), trace=Trace("a", ((0, 30),), 30))
    assert only == (0, math.inf)


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ({"hours": []}, "at least 1"),
        ({"hours": [[3, 3]]}, "no span"),
        ({"hours": [[1, 5], [4, 6]]}, "overlap"),
        ({"hours": [[22, 25]]}, "24"),
        ({"hours": [[1, 2]], "trace": "t.csv"}, "exclude"),
        ({"charging": {"from": 1, "to": 2}}, "two hours"),
        ({"charging": {"from": 1, "to": 9, "chance": 1.5}}, "less than or equal to 1"),
    ],
)
def test_impossible_availability_is_refused(written: dict[str, Any], says: str) -> None:
    """What no device can do is the operator's mistake."""
    with pytest.raises(ValidationError, match=says):
        Availability.model_validate(written)
