import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.errors import ConfigError
from shared.task import Client, ClientId, Ratio, Task, load_task

TASK = """
class Mine:
    def initial_parameters(self, seed): ...
    def train(self, parameters, work, client): ...
    def evaluate(self, parameters, client, state): ...
    @classmethod
    def build(cls): return cls()

class Half:
    def train(self, parameters, work, client): ...

class Needy(Mine):
    def __init__(self, data): ...

task = Mine()
half = Half()
number = 3
def factory(): return Mine()
def broken(): return {}["key"]
def ends(): raise SystemExit(3)
def wrong(): return 7
"""


@pytest.fixture(autouse=True)
def _imports_as_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """What a test imports is gone after it."""
    known = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    yield
    for name in set(sys.modules) - known:
        del sys.modules[name]


def written(folder: Path, text: str = TASK, name: str = "my_task_of_this_test") -> str:
    """Write a module; return its name."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(text)
    return name


@pytest.mark.parametrize("name", ["task", "factory", "Mine", "Mine.build"])
def test_a_task_is_an_object_or_what_returns_one(tmp_path: Path, name: str) -> None:
    """An instance, a function, a class and a classmethod all name a task."""
    task: Task = load_task(f"{written(tmp_path / 'tomls')}:{name}", tmp_path / "tomls")
    assert type(task).__name__ == "Mine"


def test_the_tomls_folder_comes_before_the_current_one(tmp_path: Path) -> None:
    """A task that lies beside its TOML is the one that is meant."""
    name = written(tmp_path, "raise RuntimeError('the wrong one')")
    written(tmp_path / "tomls", name=name)
    assert load_task(f"{name}:task", tmp_path / "tomls") is not None


def test_the_current_folder_is_searched_too(tmp_path: Path) -> None:
    """`examples.digits:task` works from the root of the clone, wherever the TOML lies."""
    assert load_task(f"{written(tmp_path)}:task", tmp_path / "elsewhere") is not None


@pytest.mark.parametrize("spec", ["", ":", "task", "module:", ":task", "a.b.c"])
def test_a_string_of_another_form_is_refused(tmp_path: Path, spec: str) -> None:
    """The form is shown by an example."""
    with pytest.raises(ConfigError, match=r"not of the form 'module:name'\n  for example examples\.digits:task"):
        load_task(spec, tmp_path)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("import no_such_package_at_all", "ModuleNotFoundError: No module named 'no_such_package_at_all'"),
        ("def task(:", "SyntaxError"),
        ("raise ValueError('no data here')", "ValueError: no data here"),
        ("import sys; sys.exit(5)", "SystemExit: 5"),
    ],
)
def test_a_module_that_does_not_import_says_why(tmp_path: Path, text: str, cause: str) -> None:
    """Whatever a user's module raises is the cause that is shown."""
    with pytest.raises(ConfigError, match=cause):
        load_task(f"{written(tmp_path, text)}:task", tmp_path)


@pytest.mark.parametrize("module", ["no_such_module_here", "..up", "examples/digits.py", "a b"])
def test_a_module_that_is_not_there_says_where_it_was_looked_for(tmp_path: Path, module: str) -> None:
    """The two folders are named."""
    with pytest.raises(ConfigError, match=f"looked in {tmp_path / 'tomls'}, in {tmp_path} and"):
        load_task(f"{module}:task", tmp_path / "tomls")


def test_one_folder_is_named_once(tmp_path: Path) -> None:
    """A task beside its TOML in the current folder was looked for in one place."""
    with pytest.raises(ConfigError, match=f"looked in {tmp_path} and among"):
        load_task("no_such_module_here:task", tmp_path)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("\n1 / 0", 2),
        ("import no_such_package_at_all", 1),
        ("\n\ndef task(:", 3),
        ("import numpy\n\nnumpy.loadtxt('no such file')", 3),
    ],
)
def test_a_module_that_raises_says_in_which_line_and_not_where_it_was_looked_for(
    tmp_path: Path, text: str, line: int
) -> None:
    """It was found; the line is the user's own, although a library raised."""
    name = written(tmp_path, text)
    with pytest.raises(ConfigError) as refused:
        load_task(f"{name}:task", tmp_path)
    assert refused.value.hint == f"in {tmp_path / name}.py, line {line}"


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("tusk", "has no 'tusk'\n  it has: .*factory, .*task"),
        ("task.inner", "has no 'task.inner'"),
        (
            "half",
            "of type Half, without initial_parameters, evaluate\n  a task has the methods initial_parameters, train",
        ),
        ("number", "of type int, without initial_parameters, train, evaluate"),
        ("wrong", "of type int, without"),
        ("broken", r"calling broken\(\) failed with KeyError: 'key'"),
        ("ends", r"calling ends\(\) failed with SystemExit: 3"),
        ("Needy", r"calling Needy\(\) failed with TypeError: .*data"),
        ("Half", "of type Half, without initial_parameters, evaluate"),
    ],
)
def test_what_is_no_task_says_what_is_missing(tmp_path: Path, name: str, cause: str) -> None:
    """The name, what it is, and what a task has."""
    with pytest.raises(ConfigError, match=cause):
        load_task(f"{written(tmp_path)}:{name}", tmp_path)


def test_a_client_is_a_key() -> None:
    """So that `functools.cache` works on a loader."""
    one = Client(id=ClientId("c"), data=Path("x"), partition=(1, 2))
    assert {one: 1}[Client(id=ClientId("c"), data=Path("x"), partition=(1, 2))] == 1


def test_a_ratio_is_summed_by_its_parts() -> None:
    """By hand: 1 of 2 and 9 of 10 are 10 of 12, not the mean of the shares."""
    parts = [Ratio(1, 2), Ratio(9, 10)]
    total = Ratio(sum(p.numerator for p in parts), sum(p.denominator for p in parts))
    assert total == (10, 12)
