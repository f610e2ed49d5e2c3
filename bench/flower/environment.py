"""An environment of Flower's own, made once: `.venv-flower` at the root of the clone, from `requirements.txt`."""

import asyncio
import shutil
import sys
from pathlib import Path
from typing import Final

from bench.turn import Say
from shared.errors import ConfigError

__all__ = ["REQUIREMENTS", "flower_python", "pinned_version"]

REQUIREMENTS: Final = Path(__file__).with_name("requirements.txt")


async def flower_python(folder: Path, say: Say) -> Path:
    """Return the interpreter of the environment, which is made first if it is missing or out of date.

    Args:
        folder: of the environment.
        say: is told when it takes long.

    Raises:
        ConfigError: it cannot be made; the last words of what failed are in it.
    """
    python, mark = folder / "bin" / "python", folder / "made-from.txt"
    wanted = REQUIREMENTS.read_bytes()
    if mark.exists() and mark.read_bytes() == wanted:
        return python
    say(f"installing Flower into {folder}, once")
    shutil.rmtree(folder, ignore_errors=True)
    await _run(sys.executable, "-m", "venv", "--without-pip", str(folder))  # Debian's venv cannot bring pip along
    pip = (sys.executable, "-m", "pip", "--python", str(python))
    await _run(*pip, "install", "--quiet", "--requirement", str(REQUIREMENTS))
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
