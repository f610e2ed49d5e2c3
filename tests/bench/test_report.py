import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from bench.cases import Case
from bench.report import Report, arrangement, machine
from bench.strategies import STRATEGIES, compared, some_inputs, walk
from tests.bench.turns import a_turn


def a_report() -> Report:
    """Return a report of one turn of each."""
    return Report(
        at=datetime(2030, 1, 2, 3, 4, tzinfo=UTC),
        arrangement=arrangement(n_turns=1, n_rounds=2, n_processes=3, flower="1.0"),
        machine={"CPU": "2 x 8086"},
        results={Case.parse("10x1MiB"): {"ours": [a_turn(1.0, 2.0)], "flower": [a_turn(3.0)]}},
    )


def test_report_is_saved_for_people_and_for_programs(tmp_path: Path) -> None:
    """Two files of one name: tables with how they came about, and every turn as it was measured."""
    path = a_report().save(tmp_path / "results")
    assert path.name == "2030-01-02-0304.md"
    text, facts = path.read_text(), json.loads(path.with_suffix(".json").read_text())
    assert "| 10x1MiB | Flower gRPC | 3 |" in text
    assert "2 x 8086" in text
    assert "divided among 3 processes" in text
    assert facts["results"]["10x1MiB"]["ours"][0]["round_s"] == [1.0, 2.0]
    assert facts["at"] == "2030-01-02T03:04:00+00:00"


def test_every_row_of_a_markdown_table_has_the_cells_of_its_head() -> None:
    """Otherwise viewers show it as text."""
    tables = [block.splitlines() for block in a_report().as_markdown().split("\n\n") if block.startswith("|")]
    assert len(tables) == 2
    for table in tables:
        assert len({line.count("|") for line in table if line}) == 1


def test_report_has_the_strategies_that_were_compared() -> None:
    """Both forms; without any, neither has them."""
    inputs = some_inputs()
    ours = walk(STRATEGIES[0], inputs, departing=False)
    report = replace(a_report(), results={}, strategies=[compared(STRATEGIES[0], inputs, ours, ours)])
    assert "| FedAvg | none | " in report.as_markdown()
    assert json.loads(report.as_json())["strategies"][0]["apart"]["departing"] == 0.0
    assert "FedAvg | none" not in a_report().as_markdown()


def test_machine_says_what_a_reader_needs_to_judge_the_figures() -> None:
    """Cores, memory, system and versions; never the name of the host or of its user."""
    found = machine()
    assert set(found) == {"CPU", "memory", "system", "broker", "libraries"}
    assert all(found.values())
