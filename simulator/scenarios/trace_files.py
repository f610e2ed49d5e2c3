"""The traces that a scenario names, read from the files beside it.

Not here: what a trace is (`traces.py`).
"""

from collections.abc import Mapping
from pathlib import Path

from shared.errors import ConfigError
from simulator.scenario import PlannedDevice, Scenario
from simulator.scenarios.traces import Trace, read_trace

__all__ = ["read_traces", "trace_of"]


def read_traces(scenario: Scenario, folder: Path) -> Mapping[Path, tuple[Trace, ...]]:
    """Read every trace once.

    Args:
        scenario: that names them.
        folder: in which the scenario lies.

    Raises:
        ConfigError: a file cannot be read, or is not as it should be; it names file and line.
    """
    traces: dict[Path, tuple[Trace, ...]] = {}
    for name, group in scenario.devices.items():
        path = group.availability.trace
        if path is not None and path not in traces:
            try:
                lines = (folder / path).read_text(encoding="utf-8").splitlines()
            except OSError as error:
                raise ConfigError(
                    f"devices.{name}.availability.trace cannot be read: {error.strerror}", where=str(folder / path)
                ) from error
            except UnicodeDecodeError as error:
                raise ConfigError(f"is not UTF-8 at byte {error.start}", where=str(folder / path)) from error
            traces[path] = read_trace(lines, str(folder / path))
    return traces


def trace_of(device: PlannedDevice, traces: Mapping[Path, tuple[Trace, ...]]) -> Trace | None:
    """Return a device's own trace: its group's devices take those of the file in turn."""
    path = device.availability.trace
    return None if path is None else traces[path][(device.number - 1) % len(traces[path])]
