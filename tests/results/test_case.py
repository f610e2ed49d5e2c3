import pytest

from results.case import Found, Run, Scale, cases, load_case
from shared.errors import ConfigError
from tests.results.cases.tiny import Tiny


def test_every_case_is_found_by_its_file_in_the_order_of_the_page(tiny: Tiny) -> None:
    """A file in the folder is all that a case needs."""
    found = cases()
    assert {"tiny", "rounds"} <= found.keys()
    assert [case.place for case in found.values()] == sorted(case.place for case in found.values())


def test_unknown_case_is_refused_with_those_that_exist() -> None:
    """Whoever mistypes is helped."""
    with pytest.raises(ConfigError, match=r"(?s)no case 'round'.*rounds"):
        load_case("round")


@pytest.mark.parametrize("name", cases())
@pytest.mark.parametrize("is_quick", [False, True])
def test_runs_of_a_case_are_its_own_and_differ(name: str, is_quick: bool) -> None:
    """Two runs with one description would be one; every seed is there."""
    runs = cases()[name].runs(Scale(seeds=[1, 2], folds=[0, 1], is_quick=is_quick))
    assert {run.case for run in runs} == {name}
    assert len({run.key() for run in runs}) == len(runs) > 0
    assert {run.seed for run in runs} <= {1, 2}


def test_quick_runs_are_fewer() -> None:
    """Of the same seeds and folds."""
    for case in cases().values():
        full, quick = (case.runs(Scale(seeds=[1], folds=[0], is_quick=is_quick)) for is_quick in (False, True))
        assert len(quick) <= len(full)


def test_found_gives_runs_of_an_arm_by_seed_and_fold() -> None:
    """Whatever the order in which they were described."""
    runs = [Run(case="c", arm=arm, seed=seed, options={"rate": 0.1 * seed}) for seed in (2, 1) for arm in ("a", "b")]
    found = Found(runs=runs, numbers={run.key(): {"x": run.seed} for run in runs})
    assert [numbers["x"] for _, numbers in found.of("a")] == [1, 2]
    assert [run.arm for run, _ in found.of("b", rate=0.2)] == ["b"]
    assert found.options("a", "rate") == [0.1, 0.2]
    assert found.of("a", rate=7) == []
