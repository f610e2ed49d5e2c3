from pathlib import Path

from typer.testing import CliRunner

from simulator.__main__ import app


def test_nothing_to_compare_is_said() -> None:
    """Neither a scenario nor two runs: exit 2, with both ways out."""
    result = CliRunner().invoke(app, ["compare-real"])
    assert result.exit_code == 2
    assert "--real RUN_FOLDER --virtual RUN_FOLDER" in result.stderr


def test_folder_that_is_no_run_s_is_named(tmp_path: Path) -> None:
    """Exit 2, with the folder."""
    result = CliRunner().invoke(app, ["compare-real", "--real", str(tmp_path), "--virtual", str(tmp_path)])
    assert result.exit_code == 2
    assert "there is no journal" in result.stderr
