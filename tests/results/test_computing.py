import os
from pathlib import Path

import pytest

from results.case import Run, Scale
from results.computing import Cache, Progress, compute_all, rounded
from shared.errors import FederationError
from tests.results.cases.tiny import Tiny

SCALE = Scale(seeds=[1, 2], folds=[0])
SOURCES = {"tiny": "a"}


def test_finished_runs_are_not_computed_again(tiny: Tiny, tmp_path: Path) -> None:
    """An interrupted command goes on: what the cache has is taken from it, the rest is computed."""
    cache, runs = Cache(tmp_path), tiny.runs(Scale(seeds=[1, 2, 3], folds=[0]))
    compute_all(runs[:2], SOURCES, cache, jobs=0)
    numbers = compute_all(runs, SOURCES, cache, jobs=0)
    assert tiny.computed == [run.key() for run in runs]
    assert [numbers[run.key()]["twice"] for run in runs] == [2, 4, 6]


def test_other_sources_are_computed_anew(tiny: Tiny, tmp_path: Path) -> None:
    """Numbers of code that has changed are none."""
    compute_all(tiny.runs(SCALE), SOURCES, Cache(tmp_path), jobs=0)
    compute_all(tiny.runs(SCALE), {"tiny": "b"}, Cache(tmp_path), jobs=0)
    assert len(tiny.computed) == 4


def test_torn_file_of_the_cache_is_computed_anew(tiny: Tiny, tmp_path: Path) -> None:
    """What a crash has left is no reason to stop."""
    run = tiny.runs(SCALE)[0]
    compute_all([run], SOURCES, Cache(tmp_path), jobs=0)
    next(tmp_path.rglob("*.json")).write_text('{"numb')
    assert compute_all([run], SOURCES, Cache(tmp_path), jobs=0)[run.key()]["twice"] == 2


def test_progress_counts_to_the_end(tiny: Tiny, tmp_path: Path) -> None:
    """What is cached counts as done from the begin, and tells nothing of the time that is left."""
    seen: list[Progress] = []
    runs = tiny.runs(SCALE)
    compute_all(runs[:1], SOURCES, Cache(tmp_path), jobs=0)
    compute_all(runs, SOURCES, Cache(tmp_path), jobs=0, show=seen.append)
    assert [(each.n_done, each.n_runs) for each in seen] == [(1, 2), (2, 2)]
    assert (seen[0].left_s, seen[0].last, seen[-1].left_s, seen[-1].last) == (None, None, 0.0, runs[1])


def test_failed_run_is_named_and_those_before_it_are_kept(tiny: Tiny, tmp_path: Path) -> None:
    """The message says which run it was."""
    first, second = tiny.runs(SCALE)
    compute_all([first], SOURCES, Cache(tmp_path), jobs=0)
    tiny.broken = True
    with pytest.raises(FederationError, match=r'"seed": 2.*ValueError: it is broken'):
        compute_all([first, second], SOURCES, Cache(tmp_path), jobs=0)
    assert Cache(tmp_path).get(first, "a") == {"twice": 2, "list": [0.333333, None, None]}


def test_numbers_are_the_same_in_processes_to_the_digit(tmp_path: Path) -> None:
    """Where a run is computed changes nothing, and the environment is as it was."""
    before = dict(os.environ)
    run = Run(case="rounds", arm="fedavg", seed=1, options={"rate": 0.1, "cap": 2})
    here, there = (compute_all([run], {"rounds": "a"}, Cache(tmp_path / str(jobs)), jobs=jobs) for jobs in (0, 1))
    assert here == there
    assert dict(os.environ) == before


def test_rounded_keeps_six_digits_and_says_none_of_what_is_no_number() -> None:
    """Whole numbers stay whole."""
    assert rounded({"a": 1 / 3, "b": 1234567, "c": float("inf"), "d": [2 / 3, None], "e": None}) == {
        "a": 0.333333,
        "b": 1234567,
        "c": None,
        "d": [0.666667, None],
        "e": None,
    }
