"""What a case is: a pure description of independent runs, what one run computes, and what all of them say.

A case is one file in `cases/` that has a `case`. To add one, add the file: the command, the page and the pictures find
it there.

Not here: computing the runs (`computing.py`), the page (`page.py`).
"""

import importlib
import json
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, cast

from shared.errors import ConfigError

__all__ = [
    "N_FOLDS",
    "Case",
    "Found",
    "Numbers",
    "Outcome",
    "Run",
    "Scale",
    "Section",
    "Value",
    "Verdict",
    "cases",
    "listed",
    "load_case",
    "outcome_of",
]

Value: TypeAlias = float | Sequence[float | None] | None
Numbers: TypeAlias = Mapping[str, Value]
"""What a run found: by name a number, None for one that does not exist, or a list of them."""
Outcome: TypeAlias = Literal["met", "missed", "open", "reported"]
N_FOLDS = 5
"""Into which data are divided."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run, described.

    Args:
        case: whose.
        arm: which of the case's contenders.
        seed: of everything that is random in it.
        fold: which part of the data is held out.
        options: further numbers, such as a learning rate, by name.
    """

    case: str
    arm: str
    seed: int
    fold: int = 0
    options: Mapping[str, float] = field(default_factory=dict)

    def key(self) -> str:
        """Return it as canonical JSON: equal runs have equal keys."""
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is computed.

    Args:
        seeds: 1, 2, …
        folds: 0, 1, …; of `N_FOLDS` into which data are divided.
        is_quick: a small part of everything, to see that it works.
    """

    seeds: Sequence[int]
    folds: Sequence[int]
    is_quick: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Runs and their numbers."""

    numbers: Mapping[str, Numbers]
    runs: Sequence[Run]

    def of(self, arm: str, **options: float) -> list[tuple[Run, Numbers]]:
        """Return the runs of an arm with these options, by seed and fold."""
        chosen = [
            run
            for run in self.runs
            if run.arm == arm and all(run.options.get(name) == value for name, value in options.items())
        ]
        chosen.sort(key=lambda run: (run.seed, run.fold))
        return [(run, self.numbers[run.key()]) for run in chosen]

    def options(self, arm: str, name: str) -> list[float]:
        """Return the values that an option of an arm takes, in ascending order."""
        return sorted({run.options[name] for run in self.runs if run.arm == arm and name in run.options})


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One target, and what became of it.

    Args:
        target: what was to be shown.
        found: the figures.
        outcome: "open": the mean is as it should be, its interval is not all there; "reported": there is no bound.
    """

    target: str
    found: str
    outcome: Outcome


def outcome_of(is_sure: bool, is_so: bool) -> Outcome:
    """Return what became of a target whose interval is all where it should be, or whose mean is."""
    return "met" if is_sure else "open" if is_so else "missed"


def listed(numbers: Numbers, name: str) -> Sequence[float]:
    """Return numbers that a run found one after the other."""
    return cast(Sequence[float], numbers[name])


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """What a case says on the page.

    Args:
        text: paragraphs before the table: the question, and how it was asked.
        tables: heads and rows.
        meaning: in plain sentences.
        verdicts: targets.
        picture: what the picture shows; "": there is none.
    """

    text: Sequence[str]
    tables: Sequence[Sequence[Sequence[str]]]
    meaning: str
    verdicts: Sequence[Verdict]
    picture: str = ""


class Case(Protocol):
    """One comparison."""

    title: str
    """The heading of its section."""
    place: int
    """Cases are shown in ascending order of it."""
    sources: Sequence[str]
    """Paths of files that its numbers depend on, besides the packages and this case's own file."""

    def runs(self, scale: Scale) -> Sequence[Run]:
        """Return every run; none depends on another."""

    def compute(self, run: Run) -> Numbers:
        """Compute one run, in a process that has nothing else to do; a function of `run` alone."""

    def section(self, found: Found) -> Section:
        """Return what the numbers say; a function of them alone."""

    def draw(self, found: Found, axes: Sequence[Any]) -> None:
        """Draw the numbers on two axes of matplotlib."""


def cases() -> dict[str, Case]:
    """Return every case by name, in the order of the page."""
    package = importlib.import_module("results.cases")
    found = {each.name: load_case(each.name) for each in pkgutil.iter_modules(package.__path__)}
    return dict(sorted(found.items(), key=lambda item: (item[1].place, item[0])))


def load_case(name: str) -> Case:
    """Return one case.

    Raises:
        ConfigError: there is none of that name.
    """
    package = importlib.import_module("results.cases")
    names = [each.name for each in pkgutil.iter_modules(package.__path__)]
    if name not in names:
        raise ConfigError(f"there is no case {name!r}", hint=f"there are {', '.join(names)}")
    case: Case = importlib.import_module(f"results.cases.{name}").case
    return case
