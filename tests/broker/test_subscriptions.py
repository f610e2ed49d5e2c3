"""Who gets a message."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.subscriptions import Subscriptions, TopicFilter, check_topic
from shared.errors import InvalidState

LEVEL = st.sampled_from(["a", "b", "", "$x"])
TOPIC = st.lists(LEVEL, min_size=1, max_size=4).map("/".join).filter(bool)
FILTER = st.lists(st.one_of(LEVEL, st.just("+")), min_size=1, max_size=4).flatmap(
    lambda levels: st.sampled_from(["/".join(levels), "/".join([*levels, "#"]), "#"]).filter(bool)
)


@pytest.mark.parametrize(
    ("text", "topic", "matches"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/b/", False),
        ("a/+", "a/b", True),
        ("a/+", "a/", True),
        ("a/+", "a", False),
        ("a/+/c", "a/b/c", True),
        ("a/+/c", "a/b/d", False),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("a/#", "ab", False),
        ("#", "a/b", True),
        ("#", "$SYS/a", False),
        ("+/a", "$SYS/a", False),
        ("$SYS/#", "$SYS/a", True),
        ("+/+", "/a", True),
    ],
)
def test_filter_matches_as_the_standard_says(text: str, topic: str, matches: bool) -> None:
    """The examples of MQTT 5.0 §4.7 and their neighbours."""
    assert TopicFilter(text).matches(topic.split("/")) is matches


@pytest.mark.parametrize("text", ["", "a#", "#/a", "a/#/b", "a+", "a/+b", "a\0", "x" * 65_536])
def test_malformed_filters_are_refused(text: str) -> None:
    """A wildcard stands alone in its level, and `#` at the end."""
    with pytest.raises(InvalidState):
        TopicFilter(text)


@pytest.mark.parametrize("topic", ["", "a/+", "#", "a\0", "x" * 65_536])
def test_malformed_topics_are_refused(topic: str) -> None:
    """Nothing is published on a filter."""
    with pytest.raises(InvalidState):
        check_topic(topic)


@given(filters=st.lists(st.tuples(FILTER, st.integers(0, 3), st.integers(0, 1)), max_size=20), topic=TOPIC)
def test_subscribers_are_those_whose_filters_match(filters: list[tuple[str, int, int]], topic: str) -> None:
    """Dict and list together say the same as asking every filter, each subscriber once, with its highest QoS."""
    subscriptions: Subscriptions[int] = Subscriptions()
    held: dict[tuple[str, int], int] = {}
    for text, subscriber, qos in filters:
        subscriptions.add(TopicFilter(text), subscriber, qos)
        held[text, subscriber] = qos
    expected: dict[int, int] = {}
    for (text, subscriber), qos in held.items():
        if TopicFilter(text).matches(topic.split("/")):
            expected[subscriber] = max(qos, expected.get(subscriber, 0))
    assert subscriptions.subscribers(topic) == expected
    subscriptions.remove([text for text, subscriber in held if subscriber == 0], 0)
    assert subscriptions.subscribers(topic) == {s: q for s, q in expected.items() if s != 0}
