"""The rule "oort": utility by loss and speed, exploration, the pacer; a function of its arguments alone."""

import math
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.config import OortSettings
from aggregator.oort import Oort
from aggregator.selection import Candidate, Draw


def a_candidate(device: str, **facts: object) -> Candidate:
    """Return a device that has reported: ten examples, loss 1, in ten seconds; `facts` go over ours."""
    ours = Candidate(device=device, n_asked=1, n_counted=1, asked_round=1, counted_round=1, num_examples=10, loss=1.0)
    return replace(ours, seconds=10.0, **facts) if "seconds" not in facts else replace(ours, **facts)  # type: ignore[arg-type]


def a_rule(**settings: float) -> Oort:
    """Return the rule, which explores nobody unless it is told to."""
    return Oort(OortSettings.model_validate({"exploration": 0, "exploration_min": 0, **settings}))


def drawn(rule: Oort, candidates: list[Candidate], size: int, n_rounds: int) -> Counter[str]:
    """Return how often each was drawn in so many rounds."""
    return Counter(
        device for r in range(1, n_rounds + 1) for device in rule.draw(candidates, size, Draw(seed=1, round_id=r))
    )


@st.composite
def fleets(draw: st.DrawFn) -> list[Candidate]:
    """Any devices, some of which have never reported."""
    names = draw(st.lists(st.text("abc123", min_size=1, max_size=4), unique=True, min_size=1, max_size=20))
    some = st.floats(0, 1e6)
    return [
        Candidate(device=name, device_class=draw(st.sampled_from(["", "pi"])))
        if draw(st.booleans())
        else a_candidate(
            name,
            num_examples=draw(st.integers(0, 10**6)),
            loss=draw(st.none() | some),
            seconds=draw(some),
            counted_round=draw(st.integers(0, 50)),
        )
        for name in names
    ]


@given(fleets(), st.integers(1, 25), st.integers(0, 60), st.integers(0, 99), st.lists(st.floats(0, 9), max_size=90))
def test_draw_is_a_function_of_its_arguments(
    fleet: list[Candidate], size: int, round_id: int, n_asked: int, utilities: list[float]
) -> None:
    """As many as wanted or there are, none twice, whatever is known of them; their order does not matter."""
    rule, draw = Oort(OortSettings()), Draw(seed=3, round_id=round_id, n_asked=n_asked, utilities=utilities)
    devices = rule.draw(fleet, size, draw)
    assert devices == rule.draw(fleet[::-1], size, draw)
    assert len(set(devices)) == len(devices) == min(size, len(fleet))
    assert set(devices) <= {each.device for each in fleet}


def test_utility_by_hand() -> None:
    """Gain, bonus and penalty of three devices.

    Losses 1, 2, 3 over ten examples are gains 10, 20, 30, scaled to 0, 1/2, 1. In round e^10, of devices last seen in
    round 4, the bonus is sqrt(0.1 x 10 / 4) = 1/2. Preferred are 10 s, and who takes 20 s has (10/20)² of its utility.
    """
    fleet = [
        a_candidate("a", loss=1.0, counted_round=4),
        a_candidate("b", loss=2.0, counted_round=4),
        a_candidate("c", loss=3.0, counted_round=4, seconds=20.0),
    ]
    round_id = round(math.exp(10))
    utility = a_rule(clip=1.0).utility(fleet, Draw(seed=1, round_id=round_id))
    assert utility == pytest.approx({"a": 0.5, "b": 1.0, "c": 1.5 / 4}, rel=1e-4)


def test_device_that_teaches_more_is_drawn_more_often() -> None:
    """Of the same speed: whose loss is above the cut-off, and they alone."""
    fleet = [a_candidate(f"d{i}", loss=0.1) for i in range(9)] + [a_candidate("hard", loss=5.0)]
    assert drawn(a_rule(clip=1.0), fleet, 1, 100) == {"hard": 100}
    draws = [Draw(seed=seed, round_id=1) for seed in range(200)]
    counts = Counter(device for draw in draws for device in a_rule(clip=1.0, cutoff=0.0).draw(fleet, 2, draw))
    assert counts["hard"] == 200
    assert len(counts) == 10


def test_slow_device_is_penalised_beyond_the_preferred_duration() -> None:
    """Twenty times slower with the same loss: hardly ever, unless the penalty is off."""
    fleet = [a_candidate(f"d{i}", loss=1.0 + i / 100) for i in range(9)] + [
        a_candidate("slow", loss=1.1, seconds=200.0)
    ]
    assert drawn(a_rule(), fleet, 3, 200)["slow"] == 0
    assert drawn(a_rule(penalty=0, cutoff=0), fleet, 3, 200)["slow"] > 20


def test_outlier_is_clipped() -> None:
    """A device that claims a loss of a million has no more utility than the best of the others."""
    fleet = [a_candidate(f"d{i:02}", loss=1.0 + i / 100) for i in range(20)] + [a_candidate("liar", loss=1e6)]
    utility = a_rule().utility(fleet, Draw(seed=1, round_id=1))
    assert utility["liar"] == utility["d19"] == max(utility.values())
    assert utility["d10"] == pytest.approx(10 / 19)


def test_device_not_seen_for_long_comes_back() -> None:
    """With the same loss, who last reported in round 1 is preferred in round 100 to who did in round 90."""
    fleet = [a_candidate("recent", counted_round=90), a_candidate("long-ago", counted_round=1)]
    assert drawn(a_rule(), fleet, 1, 1) in ({"recent": 1}, {"long-ago": 1})  # nothing is known by the first round
    for r in (100, 101, 102):
        assert a_rule().draw(fleet, 1, Draw(seed=1, round_id=r)) == ["long-ago"]


def test_new_devices_get_their_share_and_it_decays() -> None:
    """90 % of the places in round 1, by 0.98 a round less, never below 20 %."""
    fleet = [a_candidate(f"known-{i}") for i in range(50)] + [Candidate(device=f"new-{i}") for i in range(50)]
    rule = Oort(OortSettings())
    assert [rule.exploration(r) for r in (1, 2, 1000)] == pytest.approx([0.9, 0.882, 0.2])
    for round_id, share in ((1, 0.9), (1000, 0.2)):
        n_new = [
            sum(each.startswith("new") for each in rule.draw(fleet, 10, Draw(seed=1, round_id=round_id, n_asked=i)))
            for i in range(300)
        ]
        assert sum(n_new) / 300 == pytest.approx(10 * share, abs=0.3)


def test_places_that_one_kind_cannot_fill_go_to_the_other() -> None:
    """All new, or all known: every place is taken."""
    for fleet in ([Candidate(device=f"{i}") for i in range(5)], [a_candidate(f"{i}") for i in range(5)]):
        assert len(Oort(OortSettings()).draw(fleet, 4, Draw(seed=1, round_id=500))) == 4


def test_new_device_of_a_fast_class_is_tried_sooner() -> None:
    """Its class has been seen to be ten times faster; who was asked in vain is tried less often."""
    known = [a_candidate("k1", device_class="fast", seconds=1.0), a_candidate("k2", device_class="slow", seconds=10.0)]
    new = [Candidate(device=f"{kind}-{i}", device_class=kind) for kind in ("fast", "slow") for i in range(20)]
    counts = drawn(a_rule(exploration=1, exploration_min=1), known + new, 1, 600)
    n_fast = sum(n for device, n in counts.items() if device.startswith("fast"))
    assert n_fast / 600 == pytest.approx(10 / 11, abs=0.05)
    dead = [Candidate(device="dead", chance=0.05), Candidate(device="alive")]
    assert drawn(a_rule(exploration=1, exploration_min=1), dead, 1, 300)["dead"] < 40


def test_pacer_relaxes_when_rounds_bring_less() -> None:
    """Windows of two rounds: 9, 9 then 5, 5 is less; then 6, 6 is more; then 1, 1 is less again."""
    rule = a_rule(pacer_rounds=2, pacer_start=0.3, pacer_step=0.1)
    history = [9.0, 9.0, 5.0, 5.0, 6.0, 6.0, 1.0, 1.0]
    assert [rule.patience(history[:n]) for n in range(9)] == pytest.approx([0.3] * 4 + [0.4] * 4 + [0.5])
    assert a_rule(pacer_rounds=1, pacer_step=1).patience([3.0, 2.0, 1.0]) == 1.0


def test_who_is_asked_first_is_of_any_kind() -> None:
    """Places that are taken one by one go to new and known devices alike."""
    fleet = [a_candidate(f"known-{i}") for i in range(10)] + [Candidate(device=f"new-{i}") for i in range(10)]
    rule = a_rule(exploration=0.5, exploration_decay=1)
    first = Counter(rule.draw(fleet, 10, Draw(seed=1, round_id=r))[0].split("-")[0] for r in range(200))
    assert min(first["known"], first["new"]) > 60
