from bench.fleets import FLEETS, FleetFigures, fleets_table, stages_table


def figures(seconds: float, **more: float) -> FleetFigures:
    """Return a run of 1000 fits."""
    return FleetFigures(n_fits=1000, seconds=seconds, all_s=seconds, microseconds=more)


def test_ours_is_compared_with_the_run_that_followed_it() -> None:
    """1000 fits in 1 s beside the same in 8 s is 8 times as many a second."""
    table = fleets_table({"simulation": {"ours": [figures(1.0)], "flower": [figures(8.0)]}})
    column = table[0].index("against Flower")
    assert [row[column] for row in table[1:]] == ["8.00 x", "–"]
    assert [row[table[0].index("fits a second")] for row in table[1:]] == ["1000", "125"]
    assert {len(row) for row in table} == {len(table[0])}


def test_fleets_without_runs_have_no_table() -> None:
    """Nothing measured, nothing shown."""
    assert (fleets_table({}), stages_table({})) == ([], [])


def test_stages_of_all_runs_stand_side_by_side() -> None:
    """Stages that one of them does not have are left open."""
    results = {"a": {"ours": [figures(1.0, wire=2.0, train=1.0)]}, "b": {"ours": [figures(1.0, wire=3.0)]}}
    assert stages_table(results) == [
        ["µs of CPU a fit", "all", "wire", "train"],
        ["a", "3", "2", "1"],
        ["b", "3", "3", "–"],
    ]


def test_measured_fleets_are_those_of_the_project() -> None:
    """Their names are their keys, and Flower can do what it is measured at."""
    assert list(FLEETS) == [case.name for case in FLEETS.values()] == ["simulation", "fleet-10k", "fleet-50k"]
    for case in FLEETS.values():
        assert case.report_goal <= case.n_devices
        if case.with_flower:
            assert (case.report_goal, case.over_selection) == (case.n_devices, 1.0)
            assert case.model_bytes is not None
            assert 0 < case.n_warm_up < case.n_rounds
