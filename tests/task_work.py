"""Work for a task under test, and what a program prints in a process of its own."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from shared.task import Work

__all__ = ["printed_elsewhere", "some_work"]

ROOT = Path(__file__).parents[1]


def on_and_on(steps_done: int, n_steps: int, **metrics: float) -> bool:
    """There is time for all of it."""
    return True


def some_work(**changes: Any) -> Work:
    """One pass of fedavg in one batch, unless changed."""
    given: dict[str, Any] = {
        "round_id": 1,
        "seed": 1,
        "algorithm": "fedavg",
        "epochs": 1,
        "max_steps": None,
        "max_seconds": None,
        "batch_size": None,
        "learning_rate": 0.1,
        "options": {},
        "state": {},
        "progress": on_and_on,
    }
    return Work(**{**given, **changes})


def printed_elsewhere(program: str) -> str:
    """Run a program in another process, with another order of sets; return what it prints."""
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return ended.stdout.strip()
