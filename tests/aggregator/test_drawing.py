"""How a selection rule is asked, and held to its word."""

from collections.abc import Callable, Sequence

import pytest

from aggregator.drawing import CANDIDATES_A_PLACE, Drawing, built_in_rule
from aggregator.oort import Oort
from aggregator.selection import Candidate, Draw, SelectionRule, Uniform, draw_cohort
from aggregator.track_records import TrackRecords
from shared.errors import ConfigError, InvalidState
from tests.aggregator.builders import some_settings

Answer = Callable[[Sequence[Candidate], int], Sequence[str]]


class Told:
    """A rule that answers as told, and remembers what it was asked."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.sizes: list[int] = []
        self.draws: list[Draw] = []

    def draw(self, candidates: Sequence[Candidate], size: int, draw: Draw) -> Sequence[str]:
        self.sizes.append(size)
        self.draws.append(draw)
        return self.answer(candidates, size)


def in_order(candidates: Sequence[Candidate], size: int) -> list[str]:
    """Take the first."""
    return [each.device for each in candidates][:size]


def a_drawing(rule: SelectionRule) -> Drawing:
    """Return a drawing whose settings name a rule of the user's own."""
    return Drawing(some_settings(selection={"rule": "mine:rule"}), rule, TrackRecords())


def some_devices(n: int) -> dict[str, str]:
    """Return so many candidates of one class."""
    return {f"d{i:05}": "pi-4" for i in range(n)}


def test_few_candidates_are_drawn_anew_each_time() -> None:
    """As many as wanted; a function of seed, round and candidates."""
    drawing = Drawing(some_settings(), Uniform(), TrackRecords())
    devices = some_devices(50)
    assert drawing.take(5, devices, 3) == draw_cohort(1, "train", 3, devices, 5)
    assert drawing.take(1, devices, 3) == draw_cohort(1, "train", 3, devices, 1)
    assert drawing.take(60, devices, 3) == draw_cohort(1, "train", 3, devices, 60)
    assert drawing.take(1, {}, 3) == []


def test_single_places_among_thousands_are_drawn_ahead() -> None:
    """A rule sees 256 candidates for each place, not thousands; the order is its own."""
    rule = Told(in_order)
    drawing, devices = a_drawing(rule), some_devices(20 * CANDIDATES_A_PLACE)
    taken = []
    for _ in range(20):
        (device,) = drawing.take(1, devices, 1)
        del devices[device]
        taken.append(device)
    assert rule.sizes == [20]
    assert taken == sorted(taken)


def test_whoever_left_meanwhile_is_passed_over() -> None:
    """Drawn ahead, then gone: the next in order is taken."""
    drawing, devices = a_drawing(Told(in_order)), some_devices(3 * CANDIDATES_A_PLACE)
    assert drawing.take(1, devices, 1) == ["d00000"]
    del devices["d00001"]
    assert drawing.take(1, devices, 1) == ["d00002"]


def test_synchronous_round_draws_its_own_cohort() -> None:
    """What was drawn ahead for the round before is forgotten."""
    rule = Told(in_order)
    drawing, devices = a_drawing(rule), some_devices(3 * CANDIDATES_A_PLACE)
    for round_id in (1, 1, 2):
        drawing.take(1, devices, round_id)
    assert [each.round_id for each in rule.draws] == [1, 2]


def test_rule_that_names_fewer_is_asked_once() -> None:
    """It may leave places empty."""
    rule = Told(lambda candidates, size: in_order(candidates, 2))
    assert len(a_drawing(rule).take(4, some_devices(10), 1)) == 2
    assert rule.sizes == [4]
    assert a_drawing(Told(lambda candidates, size: [])).take(4, some_devices(10), 1) == []


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (lambda candidates, size: ["stranger"], "named 'stranger', who is no candidate"),
        (lambda candidates, size: [7], "named 7, who is no candidate"),
        (lambda candidates, size: [["d00001"]], "who is no candidate"),
        (lambda candidates, size: ["d00001", "d00001"], "named d00001 twice"),
        (lambda candidates, size: in_order(candidates, size + 1), "named 4 devices where 3 are wanted"),
        (lambda candidates, size: None, "failed with TypeError: 'NoneType' object is not iterable"),
        (lambda candidates, size: [1 / 0], "failed with ZeroDivisionError: division by zero"),
    ],
)
def test_rule_is_held_to_its_word(answer: Answer, complaint: str) -> None:
    """Strangers, duplicates, too many, or an error: by name, and with the setting that names the rule."""
    with pytest.raises(ConfigError, match=complaint) as raised:
        a_drawing(Told(answer)).take(3, some_devices(10), 1)
    assert "selection.rule = mine:rule" in str(raised.value)


def test_rules_are_known_by_name() -> None:
    """A user's own is loaded elsewhere; until then nobody is drawn."""
    assert isinstance(built_in_rule(some_settings().selection), Uniform)
    assert isinstance(built_in_rule(some_settings(selection={"rule": "oort"}).selection), Oort)
    not_loaded = built_in_rule(some_settings(selection={"rule": "mine:rule"}).selection)
    with pytest.raises(InvalidState):
        not_loaded.draw([Candidate(device="d")], 1, Draw(seed=1, round_id=1))
