"""Environments of Flower's own, each made once at the root of the clone.

`.venv-flower` is made from `requirements.txt`; `.venv-flower-simulation`, with Ray, from `requirements-simulation.txt`.
"""

import asyncio
import shutil
import sys
from pathlib import Path
from typing import Final

from bench.turn import Say
from shared.errors import ConfigError

__all__ = ["REQUIREMENTS", "SIMULATION", "flower_python", "pinned_version"]

REQUIREMENTS: Final = Path(__file__).with_name("requirements.txt")
SIMULATION: Final = Path(__file__).with_name("requirements-simulation.txt")


async def flower_python(folder: Path, say: Say, requirements: Path = REQUIREMENTS) -> Path:
    """Return the interpreter of the environment, which is made first if it is missing or out of date.

    Args:
        folder: of the environment.
        say: is told when it takes long.
        requirements: what is installed in it.

    Raises:
        ConfigError: it cannot be made; the last words of what failed are in it.
    """
    python, mark = folder / "bin" / "python", folder / "made-from.txt"
    wanted = requirements.read_bytes()  # noqa: ASYNC240 - nothing else runs yet
    if mark.exists() and mark.read_bytes() == wanted:
        return python
    say(f"installing Flower into {folder}, once")
    shutil.rmtree(folder, ignore_errors=True)
    await _run(sys.executable, "-m", "venv", "--without-pip", str(folder))  # Debian's venv cannot bring pip along
    pip = (sys.executable, "-m", "pip", "--python", str(python))
    await _run(*pip, "install", "--quiet", "--requirement", str(requirements))
    mark.write_bytes(wanted)
    return python


def pinned_version() -> str:
    """Return the version of Flower that is measured."""
    return next(
        line.removeprefix("flwr==") for line in REQUIREMENTS.read_text().splitlines() if line.startswith("flwr==")
    )


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        output, _ = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        lines = output.decode(errors="replace").strip().splitlines()
        raise ConfigError(f"{' '.join(command)} failed: {lines[-1] if lines else process.returncode}")
