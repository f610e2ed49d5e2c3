import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edge_client.__main__ import app
from edge_client.state_folder import lock_folder
from tests.edge_client.builders import lease
from tests.edge_client.test_kept_files import a_device, damage


def run(*arguments: str) -> tuple[int, str]:
    """Run the command; return its exit code and all that it says."""
    result = CliRunner().invoke(app, ["outbox", *arguments])
    return result.exit_code, result.output


def test_list_names_every_file_and_what_is_wrong_with_it(tmp_path: Path) -> None:
    """One line each, from any folder above."""
    a_device(tmp_path)
    code, said = run("list", "--folder", str(tmp_path))
    assert code == 0
    lines = said.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        f"{lease(2)}  damaged report",
        "run-0  damaged state",
        f"{lease(1)}  report",
    ]
    assert lines[0].endswith("its update has another checksum")


def test_list_as_json_is_an_object_a_line(tmp_path: Path) -> None:
    """For scripts."""
    folder = a_device(tmp_path)
    code, said = run("list", "--json", "--folder", str(folder))
    assert code == 0
    records = [json.loads(line) for line in said.splitlines()]
    assert [(record["name"], record["kind"]) for record in records] == [
        (lease(2), "damaged report"),
        ("run-0", "damaged state"),
        (lease(1), "report"),
    ]
    assert {record["device_folder"] for record in records} == {str(folder)}


def test_discard_and_retry_do_what_the_log_told(tmp_path: Path) -> None:
    """Afterwards nothing is damaged any more."""
    folder = a_device(tmp_path)
    assert run("discard", lease(2), "--folder", str(folder))[0] == 0
    code, said = run("retry", "run-0", "--folder", str(folder))
    assert (code, "is damaged still: it has another checksum" in said) == (2, True)
    damage(folder / "state" / "run-0.damaged")
    assert "whole by now, retry puts it back" in run("list", "--folder", str(folder))[1]
    code, said = run("retry", "run-0", "--json", "--folder", str(folder))
    assert (code, json.loads(said)["done"]) == (0, "put back")
    assert [line.split()[1] for line in run("list", "--folder", str(folder))[1].splitlines()] == ["report,"]


def test_running_device_is_exit_code_4(tmp_path: Path) -> None:
    """It says whose process has the folder."""
    folder = a_device(tmp_path)
    with lock_folder(folder):
        code, said = run("discard", lease(2), "--folder", str(folder))
    assert code == 4
    assert "is in use by process" in said


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["discard", "nothing"], "nothing is called 'nothing'"),
        (["discard", "run-0"], "several devices have 'run-0'"),
    ],
)
def test_name_that_is_not_one_file_is_exit_code_2(tmp_path: Path, arguments: list[str], cause: str) -> None:
    """Nothing is touched; the error says how to say it better."""
    a_device(tmp_path)
    a_device(tmp_path, "pi-2")
    code, said = run(*arguments, "--folder", str(tmp_path))
    assert code == 2
    assert cause in said


def test_folder_without_devices_is_exit_code_2(tmp_path: Path) -> None:
    """A mistyped folder is not taken for an empty outbox."""
    code, said = run("list", "--folder", str(tmp_path))
    assert code == 2
    assert "no device keeps anything here" in said


def test_empty_outbox_is_said_to_be_so(tmp_path: Path) -> None:
    """Silence could mean anything."""
    (tmp_path / "outbox").mkdir()
    assert run("list", "--folder", str(tmp_path)) == (0, "nothing is held, and nothing is damaged\n")
