"""Where a simulated run writes while it lasts: in memory, where there is room.

A journal that is synchronised to a disk row by row would take longer than the fleet. Nothing is lost with it that a
simulation could need: it is begun anew, never resumed.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aggregator.config import Settings
from shared.errors import ConfigError

__all__ = ["scratch"]

SHARED_MEMORY = Path("/dev/shm")
ROOM_BYTES = 2**30
"""Free memory that it wants; updates and versions of a run rarely take more."""


@contextmanager
def scratch(settings: Settings, *, memory: Path = SHARED_MEMORY) -> Iterator[tuple[Settings, Path]]:
    """Yield settings that write into a temporary folder, and the run's own; what was written lies there at the end.

    Args:
        settings: of the run; it has a name.
        memory: a folder in memory.

    Raises:
        ConfigError: the run's folder exists, or cannot be made.
    """
    final = settings.output.folder / (settings.run or "simulation")
    if final.exists():
        raise ConfigError("there is a run of that name, and a simulation begins anew", where=str(final))
    try:
        has_room = memory.is_dir() and shutil.disk_usage(memory).free >= ROOM_BYTES
        settings.output.folder.mkdir(parents=True, exist_ok=True)
        place = memory if has_room else settings.output.folder
        temporary = Path(tempfile.mkdtemp(prefix="fedmq-run-", dir=place))
    except OSError as error:
        raise ConfigError(f"cannot be written to: {error.strerror}", where=str(settings.output.folder)) from error
    try:
        yield settings.model_copy(update={"output": settings.output.model_copy(update={"folder": temporary})}), final
    finally:
        if (temporary / final.name).exists():
            shutil.move(temporary / final.name, final)
        shutil.rmtree(temporary, ignore_errors=True)
