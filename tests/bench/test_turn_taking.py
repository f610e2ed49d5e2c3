import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.cases import Case
from bench.turn import Contender, ContenderName, Say, Setting, Turn
from bench.turn_taking import Plan, take_turns
from shared.errors import FederationError
from tests.bench.turns import a_turn

SMALL, LARGE = Case.parse("2x64KiB"), Case.parse("2x1MiB")


class Scripted:
    """A contender that writes a file and does what it is told.

    Args:
        name: whose place it takes.
        act: is called in each turn, once the file is there.
    """

    def __init__(self, name: ContenderName, act: Callable[[], None] = lambda: None) -> None:
        self.name: ContenderName = name
        self._act = act

    async def turn(self, setting: Setting, say: Say) -> Turn:
        """See `Contender`."""
        (setting.folder / "log").write_text("x")
        say("round 2 of 3")
        self._act()
        return a_turn(1.0)


def a_plan(folder: Path, *contenders: Contender, keep_files: bool = False) -> Plan:
    """Return a plan of two turns in each of two cases."""
    return Plan(
        cases=[SMALL, LARGE],
        contenders=contenders,
        n_turns=2,
        n_rounds=1,
        n_processes=1,
        folder=folder / "work",
        keep_files=keep_files,
    )


async def test_contenders_alternate_within_a_case_and_leave_nothing(tmp_path: Path) -> None:
    """Ours, Flower, ours, Flower: a slow minute meets both. Each turn is said, and shown while it lasts."""
    order: list[tuple[Case, ContenderName]] = []
    live, said = list[str](), list[str]()
    plan = a_plan(tmp_path, Scripted("ours"), Scripted("flower"))
    await take_turns(plan, lambda case, name, turn: order.append((case, name)), live=live.append, say=said.append)
    assert order == [(case, name) for case in (SMALL, LARGE) for _ in range(2) for name in ("ours", "flower")]
    assert len(said) == plan.n_steps == 8
    assert said[1].startswith("[2/8] 2x64KiB, turn 1 of 2, Flower gRPC: 1.000 s a round")
    assert "[8/8] 2x1MiB, turn 2 of 2, Flower gRPC: round 2 of 3" in live
    assert list(plan.folder.iterdir()) == []


async def test_files_stay_when_they_are_wanted(tmp_path: Path) -> None:
    """Each turn has a folder of its own."""
    plan = a_plan(tmp_path, Scripted("ours"), keep_files=True)
    await take_turns(plan, lambda case, name, turn: None, live=lambda line: None, say=lambda line: None)
    assert len(list(plan.folder.glob("*/log"))) == 4


@pytest.mark.parametrize(("error", "n_kept"), [(FederationError("it broke"), 1), (asyncio.CancelledError(), 0)])
async def test_turn_that_failed_keeps_its_logs_and_one_that_was_interrupted_does_not(
    error: BaseException, n_kept: int, tmp_path: Path
) -> None:
    """Turns before it are not lost; whoever interrupts wants no gigabytes left behind."""
    n_turns = 0

    def act() -> None:
        if n_turns:
            raise error

    def done(case: Case, name: ContenderName, turn: Turn) -> None:
        nonlocal n_turns
        n_turns += 1

    plan = a_plan(tmp_path, Scripted("pipe", act))
    with pytest.raises(type(error)):
        await take_turns(plan, done, live=lambda line: None, say=lambda line: None)
    assert n_turns == 1
    assert len(list(plan.folder.glob("*/log"))) == n_kept
