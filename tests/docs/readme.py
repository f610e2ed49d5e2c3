"""Reading README.md: its commands, its files, its listings."""

import re
import shlex
from pathlib import Path

from tests.docs.generated import ROOT, blocks

__all__ = ["README", "command", "commands", "listing_named", "snippet", "write_walkthrough"]

README = (ROOT / "README.md").read_text()


def commands() -> list[list[str]]:
    """Return every command line of the README, in order, as words."""
    listings = re.findall(r"^```sh\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    return [shlex.split(line) for listing in listings for line in listing.splitlines()]


def command(*words: str) -> list[str]:
    """Return the first command that has all of these words."""
    return next(line for line in commands() if set(words) <= set(line))


def listing_named(name: str) -> str:
    """Return the listing that follows a file's name."""
    match = re.search(rf"`{re.escape(name)}`:\n\n```\w+\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    assert match, f"the README shows no {name}"
    return match[1]


def snippet(beginning: str) -> str:
    """Return the Python listing that begins so."""
    found: list[str] = re.findall(r"^```python\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    return next(listing for listing in found if listing.startswith(beginning))


def write_walkthrough(folder: Path, kind: str) -> None:
    """Write down what a reader has after reading about a task with "torch" or with "numpy"."""
    task = blocks(README)[f"my_task.py with {kind}"]
    (folder / "my_task.py").write_text(task.removeprefix("```python\n").removesuffix("```\n"))
    for name in ("test_my_task.py", "my_run.toml"):
        (folder / name).write_text(listing_named(name))
