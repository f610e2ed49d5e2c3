"""The one table of phases."""

from aggregator.phases import PHASES, Phase


def test_every_phase_is_in_the_table_and_the_end_is_the_end() -> None:
    """Whoever adds a phase says where it leads."""
    assert set(PHASES) == set(Phase)
    assert PHASES[Phase.FINISHED] == frozenset()
    assert all(phase not in leads_to for phase, leads_to in PHASES.items())


def test_run_can_be_stopped_and_paused_from_wherever_it_is() -> None:
    """By the operator, at any time before its end."""
    for phase in set(Phase) - {Phase.FINISHED}:
        assert Phase.FINISHED in PHASES[phase]
        assert phase is Phase.PAUSED or Phase.PAUSED in PHASES[phase]


def test_version_is_made_of_what_was_collected_and_followed_by_waiting() -> None:
    """Nothing leads from making a version back to collecting for it."""
    assert Phase.REPORTING not in PHASES[Phase.AGGREGATING]
    assert Phase.WAITING in PHASES[Phase.AGGREGATING]
