"""The cohort: uniform, the same after a restart, and not reshuffled when one more device appears."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from aggregator.selection import draw_cohort, seed_of

DEVICES = [f"pi-{i}" for i in range(20)]
NAMES = st.lists(st.text("abc123-", min_size=1, max_size=8), unique=True, max_size=30)


@given(NAMES, st.integers(0, 40), st.integers(0, 2**63 - 1), st.integers(0, 10**6), st.randoms())
def test_draw_is_a_function_of_seed_round_and_candidates(
    candidates: list[str], size: int, seed: int, round_id: int, rng: "object"
) -> None:
    """Order of the candidates does not matter; all are drawn when there are fewer than wanted, none twice."""
    drawn = draw_cohort(seed, "train", round_id, candidates, size)
    assert drawn == draw_cohort(seed, "train", round_id, reversed(candidates), size)
    assert len(drawn) == len(set(drawn)) == min(size, len(candidates))
    assert set(drawn) <= set(candidates)


@given(NAMES, st.integers(0, 20), st.text("xyz", min_size=1))
def test_one_more_candidate_replaces_at_most_one(candidates: list[str], size: int, newcomer: str) -> None:
    """Whoever was drawn stays drawn, but for the one whose place the newcomer takes."""
    before = set(draw_cohort(1, "train", 1, candidates, size))
    after = set(draw_cohort(1, "train", 1, [*candidates, newcomer], size))
    assert after - before <= {newcomer}
    assert len(before - after) <= 1


def test_draws_are_uniform() -> None:
    """5 of 20 in 4,000 rounds: each device 1,000 times, within five standard deviations (137); rounds differ."""
    counts = Counter(device for r in range(4000) for device in draw_cohort(7, "train", r, DEVICES, 5))
    assert set(counts) == set(DEVICES)
    assert max(abs(n - 1000) for n in counts.values()) < 137
    chi_square = sum((n - 1000) ** 2 / 1000 for n in counts.values())
    assert chi_square < 50  # 19 degrees of freedom: beyond it once in 10,000 seeds


def test_rounds_purposes_and_seeds_are_independent() -> None:
    """Two devices drawn together in one round are drawn together in another as often as chance has it."""
    together = sum({"pi-0", "pi-1"} <= set(draw_cohort(3, "train", r, DEVICES, 10)) for r in range(4000))
    assert abs(together - 4000 * (10 / 20) * (9 / 19)) < 5 * 27
    draws = {tuple(draw_cohort(s, p, r, DEVICES, 5)) for s in (1, 2) for p in ("train", "evaluate") for r in (1, 2)}
    assert len(draws) == 8


def test_seeds_are_functions_of_their_parts() -> None:
    """In [0, 2^63), another for every part, and the parts do not run into each other."""
    assert seed_of(1, "model") == seed_of(1, "model")
    parts = [(1, "a"), (1, "b"), (2, "a"), (1, "a", 0), (11, "a"), (1, 1, "a")]
    seeds = {seed_of(*each) for each in parts}
    assert len(seeds) == len(parts)
    assert all(0 <= seed < 2**63 for seed in seeds)
