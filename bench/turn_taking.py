"""Who measures when: for each case the contenders take turns, so that slow minutes of a machine meet all of them.

Not here: what a turn is (`turn.py`), what becomes of the figures (`table.py`, `report.py`).
"""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.cases import Case
from bench.table import NAMES, cpu_ms, round_s
from bench.turn import Contender, ContenderName, Say, Setting, Turn
from shared.errors import FederationError

__all__ = ["Plan", "take_turns"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be measured.

    Args:
        cases: in their order.
        contenders: in the order in which they take turns.
        n_turns: of each contender and case.
        n_rounds: measured in each turn.
        n_processes: of clients.
        folder: below which turns write; on a real disk, for "durable" to mean something.
        keep_files: whether what a turn wrote stays.
    """

    cases: Sequence[Case]
    contenders: Sequence[Contender]
    n_turns: int
    n_rounds: int
    n_processes: int
    folder: Path
    keep_files: bool = False

    @property
    def n_steps(self) -> int:
        """Turns of all."""
        return len(self.cases) * self.n_turns * len(self.contenders)


async def take_turns(plan: Plan, done: Callable[[Case, ContenderName, Turn], None], *, live: Say, say: Say) -> None:
    """Measure everything.

    Args:
        plan: what.
        done: is given each turn as soon as it is over.
        live: shows what goes on just now.
        say: is told of each turn.

    Raises:
        FederationError: a contender failed; the files of that turn are kept.
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    step = 0
    for case in plan.cases:
        for number in range(plan.n_turns):
            for contender in plan.contenders:
                step += 1
                title = f"[{step}/{plan.n_steps}] {case}, turn {number + 1} of {plan.n_turns}, {NAMES[contender.name]}"
                turn = await _one(plan, case, contender, partial(_titled, live, title))
                done(case, contender.name, turn)
                say(f"{title}: {round_s(turn):.3f} s a round, {cpu_ms(turn, case):.1f} ms of CPU an update")


def _titled(live: Say, title: str, line: str) -> None:
    live(f"{title}: {line}")


async def _one(plan: Plan, case: Case, contender: Contender, live: Say) -> Turn:
    live("starting")
    place = Path(tempfile.mkdtemp(prefix=f"{case}-{contender.name}-", dir=plan.folder))
    setting = Setting(case=case, n_rounds=plan.n_rounds, n_processes=plan.n_processes, folder=place)
    keeps_files = plan.keep_files
    try:
        return await contender.turn(setting, live)
    except FederationError:
        keeps_files = True  # the error names logs in it
        raise
    finally:
        if not keeps_files:
            shutil.rmtree(place)
