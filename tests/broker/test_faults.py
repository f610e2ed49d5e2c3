"""Which misbehaviours there are, how they are drawn, and what is said of them."""

from dataclasses import fields, replace
from random import Random
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.faults import MISBEHAVIOURS, Faults
from broker.link import Failures, LinkProfile
from shared.errors import InvalidState

SWITCHES = [each.switch for each in MISBEHAVIOURS]
DRAWABLE = [each.switch for each in MISBEHAVIOURS if each.draw is not None]
NO_SWITCHES = {
    *("link", "reorder_s", "delay_s", "crash_lasts_s", "autosave_s", "late_will_s"),
    "max_payload_bytes",  # a limit that is announced is no misbehaviour
}
"""Fields that say how, not whether."""


def test_every_field_is_a_switch_or_belongs_to_one() -> None:
    """No misbehaviour can be left out of the mix and of the words by mistake."""
    assert {field.name for field in fields(Faults)} == set(SWITCHES) | NO_SWITCHES
    assert len(set(SWITCHES)) == len(SWITCHES)


def test_all_is_off_by_default() -> None:
    """A broker that nobody told otherwise behaves."""
    assert Faults().misbehaviours == ()
    assert not Faults().touch_deliveries
    assert Faults().describe() == "a broker without faults; links: perfect"


@pytest.mark.parametrize("name", ["lose_qos0", "lose_acknowledged", "duplicate_qos1", "reorder", "delay", "late_will"])
def test_probabilities_are_checked(name: str) -> None:
    """A probability lies between 0 and 1."""
    for wrong in (1.1, -0.1, float("nan")):
        with pytest.raises(InvalidState, match=name):
            replace(Faults(), **cast(Any, {name: wrong}))


@pytest.mark.parametrize("name", ["max_queued_messages", "stalled_head", "discard_after_s", "crash_every_s", "delay_s"])
def test_limits_that_let_nothing_through_are_refused(name: str) -> None:
    """0 is not a way to switch a limit off."""
    with pytest.raises(InvalidState, match=name):
        replace(Faults(), **cast(Any, {name: 0}))
    with pytest.raises(InvalidState, match="autosave_s"):
        Faults(autosave_s=-1.0)


@given(seed=st.integers(), at_least=st.integers(0, len(DRAWABLE)))
def test_mix_has_what_was_asked_for_and_is_a_function_of_the_seed(seed: int, at_least: int) -> None:
    """So many are on, at most three more, and each can be read in the words."""
    faults = Faults.drawn(Random(seed), at_least=at_least)
    assert at_least <= len(faults.misbehaviours) <= at_least + 3
    assert faults == Faults.drawn(Random(seed), at_least=at_least)
    assert faults.describe().count(";") == max(len(faults.misbehaviours), 1)
    assert faults.link.takes_time


def test_every_misbehaviour_is_drawn_now_and_then() -> None:
    """A thousand mixes leave none out, and half of what needs a backlog gets links that stall: all of it does."""
    mixes = [Faults.drawn(Random(seed)) for seed in range(1000)]
    assert {name for mix in mixes for name in mix.misbehaviours} == set(DRAWABLE)
    assert len({mix.misbehaviours for mix in mixes}) > 500
    for mix in mixes:
        wants = {"max_queued_messages", "stalled_head", "discard_after_s"} & set(mix.misbehaviours)
        assert (mix.link.stalls is not None) == bool(wants)


def test_more_than_there_are_cannot_be_drawn() -> None:
    """The error says how many there are."""
    with pytest.raises(InvalidState, match=str(len(DRAWABLE))):
        Faults.drawn(Random(0), at_least=len(DRAWABLE) + 1)


def test_words_say_what_is_on_and_how_bad_the_links_are() -> None:
    """As it is printed under a failing schedule."""
    faults = Faults(
        lose_acknowledged=0.031,
        crash_every_s=300.0,
        crash_lasts_s=2.0,
        autosave_s=60.0,
        drop_above_bytes=1000,
        link=LinkProfile(latency_s=0.1, stalls=Failures(every_s=60.0, lasts_s=5.0)),
    )
    assert faults.describe() == (
        "3.1% acknowledged and lost; crashes every 300 s for 2.0 s and keeps what was saved, every 60 s; "
        "acknowledged and dropped above 1000 bytes; links: latency_s 0.1, stalls every_s 60, lasts_s 5"
    )
    assert "loses everything" in Faults(crash_every_s=300.0).describe()
