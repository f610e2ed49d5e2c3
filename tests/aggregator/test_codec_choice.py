"""Which codec a device is given: never one that it does not speak, the less lossy the better its link."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.codec_choice import LEAST_FOR_ONE_BIT, CodecChoice, choose, one_bit_doubt, usable_of
from shared.codecs import CODECS
from tests.aggregator.builders import some_settings

ALL = frozenset(CODECS)
AUTO = {"codec": "auto"}
N_PARAMS = 100_000  # int8: 101,564 bytes
LARGE_ROUND = {"report_goal": LEAST_FOR_ONE_BIT, "over_selection": 1.0, "quorum": 1.0}

speaking = st.frozensets(st.sampled_from([*CODECS, "gzip", "AUTO", ""]))
rates = st.none() | st.floats(0, 1e9)
links = st.fixed_dictionaries(
    {
        "uplink_bytes_per_s": rates,
        "seconds_left": st.floats(0, 1e6),
        "n_averaged": st.integers(1, 1000),
        "before": st.sampled_from(["", *CODECS]),
        "max_bytes": st.none() | st.integers(1, 10**6),
    }
)


def sizes(n_params: int) -> dict[str, int]:
    """Return the bytes of an update by its codec."""
    return {name: codec.encoded_bytes(n_params) for name, codec in CODECS.items()}


SIZES = sizes(N_PARAMS)


def auto(**link: Any) -> str | None:
    """Choose for a device that speaks everything, in a large round with a minute left."""
    ours: dict[str, Any] = {
        "speaks": ALL,
        "update_bytes": SIZES,
        "seconds_left": 60.0,
        "n_averaged": LEAST_FOR_ONE_BIT,
    }
    return choose(**{**ours, **link})


@given(speaking, st.integers(0, 10**7), st.sampled_from(["auto", *CODECS]), links)
def test_never_one_that_the_device_does_not_speak(
    speaks: frozenset[str], n_params: int, policy: str, link: dict[str, Any]
) -> None:
    """Nor one whose update is larger than allowed, nor another than the one that was named."""
    chosen = choose(speaks, sizes(n_params), policy=policy, **link)
    if chosen is not None:
        assert chosen in speaks
        assert link["max_bytes"] is None or CODECS[chosen].encoded_bytes(n_params) <= link["max_bytes"]
        assert policy in ("auto", chosen)


@given(speaking, st.integers(0, 10**7), links)
def test_state_on_a_device_is_never_relied_on_unless_named(
    speaks: frozenset[str], n_params: int, link: dict[str, Any]
) -> None:
    """What such a codec leaves out is lost with the device."""
    chosen = choose(speaks, sizes(n_params), **link)
    assert chosen is None or not CODECS[chosen].needs_feedback


@given(speaking, st.integers(0, 10**7), links, st.floats(0, 1e9))
def test_better_link_never_makes_it_coarser(
    speaks: frozenset[str], n_params: int, link: dict[str, Any], faster: float
) -> None:
    """As the rate grows, one bit a value gives way to a usual codec, once and for all."""
    rate = link["uplink_bytes_per_s"] or 0.0
    slow = choose(speaks, sizes(n_params), **{**link, "uplink_bytes_per_s": min(rate, faster)})
    fast = choose(speaks, sizes(n_params), **{**link, "uplink_bytes_per_s": max(rate, faster)})
    assert fast == slow or (slow == "one-bit" and fast is not None)


def test_int8_wherever_nothing_speaks_against_it() -> None:
    """An unknown link, a good one, a thin one with enough time, a thin one in a round that is too small for one bit."""
    assert auto() == auto(uplink_bytes_per_s=1e6) == auto(uplink_bytes_per_s=8000.0, seconds_left=600.0) == "int8"
    assert auto(uplink_bytes_per_s=8000.0, n_averaged=LEAST_FOR_ONE_BIT - 1, seconds_left=1.0) == "int8"


def test_one_bit_where_int8_would_not_come_up_in_time() -> None:
    """101,564 bytes at 8 kB/s are 13 s, 19 s to be safe: more than half of 30 s, less than half of 60 s."""
    assert auto(uplink_bytes_per_s=8000.0, seconds_left=30.0) == "one-bit"
    assert auto(uplink_bytes_per_s=0.0) == "one-bit"


def test_device_does_not_flip_at_the_threshold() -> None:
    """Between the rate that int8 needs and twice that, it keeps what it had."""
    between = {"uplink_bytes_per_s": 8000.0, "seconds_left": 60.0}
    assert auto(**between, before="int8") == "int8"
    assert auto(**between, before="one-bit") == "one-bit"
    assert auto(uplink_bytes_per_s=16_000.0, before="one-bit") == "int8"


def test_floats_are_for_devices_that_speak_nothing_else() -> None:
    """The smaller first; one bit last, and in no round that is too small for it."""
    assert auto(speaks={"float32", "float16"}) == "float16"
    assert auto(speaks={"float32"}, uplink_bytes_per_s=1.0) == "float32"
    assert auto(speaks={"float32", "one-bit"}, uplink_bytes_per_s=1.0) == "one-bit"
    assert auto(speaks={"one-bit"}) == "one-bit"
    assert auto(speaks={"one-bit"}, n_averaged=LEAST_FOR_ONE_BIT - 1) is None
    assert auto(n_averaged=LEAST_FOR_ONE_BIT - 1, max_bytes=50_000) is None
    assert auto(speaks={"top-1-percent", "gzip"}) is None


def refusal(codec: str, speaks: set[str], *, keeps_state: bool = True, **transfer: Any) -> str | None:
    """Return why such a device cannot take part in a run with this setting."""
    settings = some_settings(training={"codec": codec}, transfer=transfer, round=LARGE_ROUND)
    return CodecChoice(settings, SIZES).refusal(speaks, keeps_state=keeps_state)


@pytest.mark.parametrize(
    ("codec", "speaks", "named"),
    [
        ("int8", {"float32", "gzip"}, ["does not speak int8", "float32", 'training.codec = "auto"']),
        ("int8", {"gzip"}, ["does not speak int8", "none of ours"]),
        ("auto", {"gzip"}, ["speaks none of int8, float16, float32, one-bit", "up to date"]),
    ],
)
def test_device_is_refused_by_name(codec: str, speaks: set[str], named: list[str]) -> None:
    """With what to change, and without the words that it made up."""
    detail = refusal(codec, speaks)
    assert detail is not None
    assert all(word in detail for word in named)
    assert "gzip" not in detail


def test_device_without_a_place_to_keep_state_is_refused_a_codec_that_needs_it() -> None:
    """By name; what else it speaks is as good as any other's."""
    assert "needs a device that keeps state" in str(refusal("top-1-percent", set(CODECS), keeps_state=False))
    assert refusal("top-1-percent", set(CODECS)) is None
    assert refusal("auto", set(CODECS), keeps_state=False) is None
    assert usable_of(CODECS, keeps_state=False) == ALL - {"top-1-percent"}
    assert usable_of(["int8"], keeps_state=True) is usable_of(["int8", "gzip"], keeps_state=False)


@pytest.mark.parametrize(
    "tables",
    [
        {"server": {"rule": "median"}},
        {"server": {"max_norm": 1.0}},
        {"server": {"clip_norm": 1.0}},
        {"training": {"algorithm": "scaffold"}},
        {"training": {"algorithm": "qfedavg", "q": 1.0}},
        {"round": {**LARGE_ROUND, "report_goal": LEAST_FOR_ONE_BIT - 1}},
        {"round": {**LARGE_ROUND, "quorum": 0.9}},
    ],
)
def test_one_bit_is_for_updates_whose_error_is_averaged_out(tables: dict[str, dict[str, Any]]) -> None:
    """Not for a rule that looks at single ones, a bound on their norm, or state that hangs on one; nor for a few."""
    plain: dict[str, Any] = {"round": LARGE_ROUND, "training": {"codec": "auto"}}
    other: dict[str, Any] = {name: {**plain.get(name, {}), **tables.get(name, {})} for name in plain | tables}
    for settings, codec in [(some_settings(**plain), "one-bit"), (some_settings(**other), "int8")]:
        assert CodecChoice(settings, SIZES).of(ALL, uplink_bytes_per_s=1.0, seconds_left=10.0) == codec


def test_one_bit_is_for_devices_that_weigh_no_more_than_a_twentieth_of_a_round() -> None:
    """One device of a thousand examples among nineteen of ten would bring its whole error into the mean."""
    round_ = {**LARGE_ROUND, "report_goal": 2 * LEAST_FOR_ONE_BIT}
    choice = CodecChoice(some_settings(round=round_, training=AUTO), SIZES)
    found = [
        choice.of(ALL, uplink_bytes_per_s=1.0, seconds_left=10.0, relative_weight=each) for each in (0.1, 2.0, 2.01)
    ]
    assert found == ["one-bit", "one-bit", "int8"]
    assert choice.of({"one-bit"}, uplink_bytes_per_s=1.0, seconds_left=10.0, relative_weight=9.0) == "one-bit"


def test_device_that_speaks_one_bit_alone_is_refused_where_that_is_not_for_it() -> None:
    """Whatever a device says that it speaks, a median and a small round never see one bit; and the words say so."""
    small: list[dict[str, Any]] = [{"server": {"rule": "median"}}, {"round": {"report_goal": 5}}]
    for tables in small:
        choice = CodecChoice(some_settings(**{"round": LARGE_ROUND, "training": AUTO, **tables}), SIZES)
        assert "speaks none of int8, float16, float32: bring" in str(choice.refusal({"one-bit"}, keeps_state=True))
    large = CodecChoice(some_settings(round=LARGE_ROUND, training=AUTO), SIZES)
    assert large.refusal({"one-bit"}, keeps_state=True) is None


def test_floats_that_do_not_fit_the_limit_are_no_codec() -> None:
    """The limit is below a float32 update: who speaks nothing smaller is told of it."""
    assert refusal("auto", {"float32"}, max_update_bytes=200_000) is not None
    assert "max_update_bytes = 200000: raise that" in str(refusal("auto", {"float32"}, max_update_bytes=200_000))
    assert refusal("auto", {"int8"}, max_update_bytes=200_000) is None


def test_bytes_of_a_lease_are_those_of_its_codec() -> None:
    """The disk is asked for the largest that any lease may need, a new device is expected to send the usual one."""
    choice = CodecChoice(some_settings(training={"codec": "auto"}), SIZES)
    assert (choice.usual.name, choice.usual_bytes, choice.largest_bytes) == ("int8", 101_564, 400_000)
    assert [choice.bytes_of(name) for name in CODECS] == [codec.encoded_bytes(N_PARAMS) for codec in CODECS.values()]
    limited = CodecChoice(some_settings(transfer={"max_update_bytes": 300_000}), SIZES)
    assert limited.largest_bytes == limited.bytes_of("int8") == 300_000


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({}, None),
        ({"training": {"codec": "int8"}, "round": {"report_goal": 5}}, None),
        ({"round": {"report_goal": 5}}, "of 4 averages fewer than 20"),
        ({"round": {**LARGE_ROUND, "quorum": 0.9}}, "of 18 averages fewer than 20"),
        ({"server": {"rule": "median"}}, "count alone or more"),
        ({"server": {"reweight": "finishing"}}, "count alone or more"),
        ({"server": {"clip_norm": 1.0}}, "count alone or more"),
        ({"training": {"codec": "one-bit", "algorithm": "qfedavg", "q": 1.0}}, "count alone or more"),
    ],
)
def test_one_bit_by_name_is_doubted_where_its_error_does_not_average_out(
    changes: dict[str, Any], cause: str | None
) -> None:
    """As "auto" would not have chosen it."""
    tables = {"training": {"codec": "one-bit"}, "round": LARGE_ROUND, **changes}
    doubt = one_bit_doubt(some_settings(**tables))
    assert (doubt is None) == (cause is None)
    assert cause is None or cause in str(doubt)
