"""What is retained, and what a crash leaves of it."""

from hypothesis import given
from hypothesis import strategies as st

from broker.retained_store import RetainedStore
from broker.subscriptions import TopicFilter

CHANGES = st.lists(
    st.tuples(st.floats(0.0, 20.0), st.sampled_from("abc"), st.sampled_from([b"", b"1", b"2"])), max_size=30
)


def test_topics_of_a_filter_are_found_oldest_first() -> None:
    """By name at once, by wildcard in the order in which they came."""
    store = RetainedStore()
    for topic in ("b/2", "a", "b/1"):
        store.put(topic, b"x")
    assert store.topics(TopicFilter("b/+")) == ["b/2", "b/1"]
    assert store.topics(TopicFilter("a")) == ["a"]
    assert store.topics(TopicFilter("c")) == []
    store.put("a", b"")
    assert store.get("a") == b""
    assert dict(store.view) == {"b/2": b"x", "b/1": b"x"}


@given(changes=CHANGES, end=st.floats(0.0, 20.0), every_s=st.floats(0.5, 30.0))
def test_crash_goes_back_to_the_last_save(changes: list[tuple[float, str, bytes]], end: float, every_s: float) -> None:
    """Whatever the changes: what is left is the state at the last multiple of the interval, worked out or not."""
    store, now, history = RetainedStore(), 0.0, [(-1.0, dict[str, bytes]())]
    for after_s, topic, payload in changes:
        now += after_s
        store.save_if_due(now, every_s)
        store.put(topic, payload)
        history.append((now, dict(store.view)))
    now += end
    store.crash(now, every_s)
    saved_at = store._saved_at
    assert saved_at <= now < saved_at + every_s * 1.000001
    before = [state for at, state in history if at < saved_at]  # a change in the instant of a save comes after it
    assert dict(store.view) == (before[-1] if before else {})


def test_crash_without_saves_loses_all_and_with_every_change_saved_nothing() -> None:
    """The two ends of the scale."""
    for autosave_s, left in ((None, {}), (0.0, {"a": b"1"})):
        store = RetainedStore()
        view = store.view
        store.put("a", b"1")
        store.crash(100.0, autosave_s)
        assert dict(view) == left
