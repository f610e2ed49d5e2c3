"""When the broker is tried again."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from broker.reconnect import CAP_S, Reconnect

CALLS = st.lists(st.sampled_from(["failure", "loss", "progress"]), max_size=60)


@given(seed=st.integers(), calls=CALLS, window_s=st.floats(0.0, 1e4))
def test_any_wait_is_within_its_bounds(seed: int, calls: list[str], window_s: float) -> None:
    """A wait is never negative, after a failure never over the cap, after a loss never over cap and window."""
    reconnect = Reconnect(Random(seed))
    for call in calls:
        match call:
            case "failure":
                assert 0.0 <= reconnect.after_failure() <= CAP_S
            case "loss":
                assert 0.0 <= reconnect.after_loss(window_s) <= max(CAP_S, window_s)
            case _:
                reconnect.progress()
                assert reconnect.attempts == 0


def test_failures_double_the_bound_up_to_the_cap() -> None:
    """The largest of many draws after n failures lies near base · 2^n, and near the cap in the end."""
    for n, bound_s in [(0, 1.0), (1, 2.0), (5, 32.0), (8, 256.0), (9, 300.0), (40, 300.0)]:
        waits: list[float] = []
        for seed in range(200):
            reconnect = Reconnect(Random(seed))
            waits.append([reconnect.after_failure() for _ in range(n + 1)][-1])
        assert 0.95 * bound_s < max(waits) <= bound_s


def test_only_progress_resets() -> None:
    """Connecting says nothing: losses in a row without progress widen the wait like failed attempts."""
    rng = Random(1)
    reconnect = Reconnect(rng)
    for _ in range(12):
        reconnect.after_loss(0.0)
    assert reconnect.attempts == 12
    assert max(reconnect.after_loss(0.0) for _ in range(50)) > 200.0
    reconnect.progress()
    assert reconnect.after_failure() <= 1.0


def test_first_attempt_after_a_loss_spreads_over_the_window() -> None:
    """Ten thousand devices that lose their broker at once come back evenly over the reconnect window."""
    waits = sorted(Reconnect(Random(seed)).after_loss(300.0) for seed in range(10_000))
    per_30_s = [sum(30.0 * i <= wait < 30.0 * (i + 1) for wait in waits) for i in range(10)]
    assert min(per_30_s) > 850
    assert max(per_30_s) < 1150


def test_same_seed_same_waits() -> None:
    """The waits are a function of the seed and of what happened."""
    one, other = Reconnect(Random(7)), Reconnect(Random(7))
    assert [one.after_failure() for _ in range(9)] == [other.after_failure() for _ in range(9)]
