import contextlib
import json
import os
from pathlib import Path
from typing import Any, Literal, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from shared.config import load_settings, settings_digest, settings_json
from shared.errors import ConfigError


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Window(Section):
    min: float
    max: float

    @model_validator(mode="after")
    def _is_ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min:g} is over max {self.max:g}")
        return self


class Broker(Section):
    url: str = "mqtt://127.0.0.1"
    password: SecretStr | None = None


class Round(Section):
    mode: Literal["sync", "async"] = "sync"
    report_goal: int = Field(ge=1, description="reports that close the round")
    window_s: Window = Window(min=1, max=2)
    lease_s: float | None = None
    options: dict[str, float | bool | str] = {}


class Settings(Section):
    task: str
    folder: Path = Path("runs")
    broker: Broker = Broker()
    round: Round


GOOD = 'task = "a:b"\nround = { report_goal = 2 }\n'


def load(folder: Path, text: str = GOOD, overrides: dict[str, Any] | None = None) -> Settings:
    """Load settings from a file of this text."""
    path = folder / "run.toml"
    path.write_text(text)
    return load_settings(Settings, path, overrides or {})


def refusal(folder: Path, text: str = GOOD, overrides: dict[str, Any] | None = None) -> str:
    """Return what the user is told."""
    with pytest.raises(ConfigError) as caught:
        load(folder, text, overrides)
    assert caught.value.exit_code == 2
    assert caught.value.__context__ is None or isinstance(caught.value.__context__, OSError | ValueError)
    return str(caught.value)


def test_file_environment_and_options_override_one_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The later wins, key by key; an option of None was not given."""
    text = 'task = "a:b"\nround = { report_goal = 2, lease_s = 5, window_s = { min = 1, max = 9 } }\n'
    monkeypatch.setenv("FEDMQ__ROUND__REPORT_GOAL", "12")
    monkeypatch.setenv("FEDMQ__ROUND__WINDOW_S__MIN", "3")
    monkeypatch.setenv("FEDMQ__BROKER__URL", "mqtt://env")
    found = load(tmp_path, text, {"broker.url": "mqtt://option", "task": None, "round.window_s": {"max": 8}})
    assert found.round == Round(report_goal=12, lease_s=5, window_s=Window(min=3, max=8))
    assert found.broker.url == "mqtt://option"
    assert found.task == "a:b"


def test_settings_come_without_a_file_too() -> None:
    """A device is configured by options alone."""
    assert load_settings(Broker, None, {"url": "mqtt://x"}).url == "mqtt://x"
    with pytest.raises(ConfigError, match=r"^settings: 2 problems\n  min: is missing\n  option mni = 1: .* min\?"):
        load_settings(Window, None, {"mni": 1, "max": 2})


@pytest.mark.parametrize(
    ("name", "text", "key", "value"),
    [
        ("FEDMQ__TASK", "7", "task", "7"),
        ("fedmq__task", "x:y", "task", "x:y"),
        ("FEDMQ__BROKER__PASSWORD", "1234", "broker.password", SecretStr("1234")),
        ("FEDMQ__ROUND__LEASE_S", "null", "round.lease_s", None),
        ("FEDMQ__ROUND__LEASE_S", "2.5", "round.lease_s", 2.5),
        ("FEDMQ__ROUND__MODE", "async", "round.mode", "async"),
        ("FEDMQ__ROUND__WINDOW_S", '{"min": 1, "max": 7}', "round.window_s", Window(min=1, max=7)),
        ("FEDMQ__ROUND__OPTIONS__MU", "0.5", "round.options", {"mu": 0.5}),
        ("FEDMQ__ROUND__OPTIONS__ON", "true", "round.options", {"on": True}),
        ("FEDMQ__ROUND__OPTIONS__NAME", "adam", "round.options", {"name": "adam"}),
        ("FEDMQ__FOLDER", "/tmp/x", "folder", Path("/tmp/x")),
    ],
)
def test_environment_values_have_the_type_of_their_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, key: str, value: object
) -> None:
    """A string stays one, however much it looks like a number; everything else is read as JSON."""
    monkeypatch.setenv(name, text)
    found: Any = load(tmp_path)
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'task = "a"\nround = { report_goal = 0 }',
            "round.report_goal = 0: must be greater than or equal to 1 (reports that close the round)",
        ),
        ('task = "a"\nround = { report_goal = "x" }', "round.report_goal = 'x': must be a valid integer"),
        (
            'task = "a"\nround = { report_goal = 2, report_gaol = 12 }',
            "round.report_gaol = 12: there is no such key; did you mean round.report_goal? There are: lease_s, mode",
        ),
        (GOOD + "report_goal = 3", "report_goal = 3: there is no such key; did you mean round.report_goal?"),
        (GOOD + "zzz = 3", "zzz = 3: there is no such key; there are: broker, folder, round, task"),
        ('task = "a"\nround = { report_goal = 1, mode = "fast" }', "round.mode = 'fast': must be 'sync' or 'async'"),
        (
            'task = "a"\nround = { report_goal = 1, window_s = { min = 5, max = 2 } }',
            "round.window_s: min 5 is over max 2",
        ),
        ('task = "a"\nround = { report_goal = 1, window_s = { min = 5 } }', "round.window_s.max: is missing"),
        (
            'task = "a"\nround = { report_goal = 1, options = { x = [1] } }',
            "round.options.x = [1]: must be a valid number",
        ),
        ('task = "a"\nround = 3', "round = 3: must be a table"),
        ('task = "a"', "round: is missing"),
        ("task = \n", "is no TOML: Invalid value (at line 1, column 8)"),
        ("task = 'a'\ntask = 'b'\n", "is no TOML: Cannot overwrite a value (at line 2"),
    ],
)
def test_a_wrong_file_is_explained(tmp_path: Path, text: str, message: str) -> None:
    """File, key, value, what is allowed, and the nearest known key."""
    told = refusal(tmp_path, text)
    assert told.startswith(f"{tmp_path / 'run.toml'}: ")
    assert message in told


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("FEDMQ__ROUND__REPORT_GAOL", "12", "round.report_gaol = '12': there is no such key; did you mean"),
        ("FEDMQ__RUOND__REPORT_GOAL", "12", "ruond: there is no such key; did you mean round?"),
        ("FEDMQ__ROUND__REPORT_GOAL", "x", "round.report_goal = 'x': must be a valid integer"),
        ("FEDMQ__ROUND__WINDOW_S", "{min", "round.window_s = '{min': must be a table"),
        ("FEDMQ__ROUND__REPORT_GOAL__X", "3", "round.report_goal: must be a valid integer"),
        ("FEDMQ__", "3", "there is no such key"),
    ],
)
def test_a_wrong_variable_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    """Nobody looks for a mistake of the environment in the file."""
    monkeypatch.setenv(name, value)
    told = refusal(tmp_path)
    assert f"{name}: " in told
    assert message in told


def test_a_wrong_option_is_named(tmp_path: Path) -> None:
    """The command line is a source of its own."""
    told = refusal(tmp_path, overrides={"round.report_goal": -1})
    assert told.startswith("option round.report_goal = -1: must be greater")


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    """Nobody should have to run it three times."""
    told = refusal(tmp_path, "round = { report_goal = 0, mode = 'x' }\nzzz = 1")
    assert told.splitlines()[0].endswith("run.toml: 4 problems")
    assert len(told.splitlines()) == 5


@pytest.mark.parametrize("make", ["missing", "folder", "latin"])
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, make: str) -> None:
    """No file, a folder, and bytes that are no UTF-8."""
    path = tmp_path / "run.toml"
    if make == "folder":
        path.mkdir()
    elif make == "latin":
        path.write_bytes(b'task = "\xe9"')
    expected = {"missing": "No such file", "folder": "Is a directory", "latin": "is not UTF-8 at byte 8"}[make]
    with pytest.raises(ConfigError, match=expected) as caught:
        load_settings(Settings, path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        'broker = { passwrd = "hunter2" }',
        'broker = { password = ["hunter2"] }',
        'broker = { url = 3, secret = "hunter2" }',
        'broker = "mqtts://user:hunter2@host"',
        'passwort = "hunter2"',
        'broker = { password = "hunter2", zzz = 1 }',
    ],
)
def test_a_refusal_never_prints_a_secret(tmp_path: Path, text: str) -> None:
    """Neither the value of a secret nor what may be one under a mistyped key."""
    assert "hunter2" not in refusal(tmp_path, GOOD + text)


def test_secrets_are_in_neither_json_nor_digest(tmp_path: Path) -> None:
    """Another password is the same configuration."""
    with_one, with_other = (load(tmp_path, GOOD, {"broker.password": p}) for p in ("hunter2", "hunter3"))
    assert "hunter" not in settings_json(with_one)
    assert settings_json(with_one) == settings_json(with_other)
    assert settings_digest(with_one) == settings_digest(load(tmp_path))
    in_url = load(tmp_path, GOOD, {"broker.url": "mqtts://user:hunter2@host"})
    assert "hunter2" not in settings_json(in_url)
    assert "user:***@host" in settings_json(in_url)


def test_json_is_canonical(tmp_path: Path) -> None:
    """Order and spelling of numbers in the file change nothing; a value does."""
    one = load(tmp_path, 'task = "a"\nround = { report_goal = 2, window_s = { min = 1, max = 2 } }')
    same = load(tmp_path, 'round = { window_s = { max = 2.0, min = 1e0 }, report_goal = 2 }\ntask = "a"')
    other = load(tmp_path, 'task = "a"\nround = { report_goal = 3 }')
    assert settings_digest(one) == settings_digest(same) != settings_digest(other)
    assert json.loads(settings_json(one))["round"]["window_s"] == {"min": 1.0, "max": 2.0}
    assert json.loads(settings_json(one))["folder"] == "runs"


@given(
    st.dictionaries(
        st.sampled_from(["task", "round", "broker", "folder", "x"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["url", "report_goal", "y"]), inner)
            ),
        ),
    )
)
def test_whatever_is_overridden_is_settings_or_one_refusal(overrides: dict[str, Any]) -> None:
    """No value of any type gets past the settings, or out of them as anything but a `ConfigError`."""
    with contextlib.suppress(ConfigError):
        assert isinstance(load_settings(Settings, None, overrides), Settings)


def test_variables_of_others_are_none_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the prefix makes a variable ours."""
    monkeypatch.setitem(os.environ, "FEDMQ_ROUND", "x")
    monkeypatch.setitem(os.environ, "ROUND", "x")
    monkeypatch.setitem(os.environ, "TASK", "x")
    assert load(tmp_path).task == "a:b"
