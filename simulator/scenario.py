"""A fleet, as written down: what it learns, on which devices, over which links, and who is killed.

One TOML describes it, for a rehearsal with processes and a broker as for virtual time. The run itself is described by
the aggregator's own settings: a file of theirs (`settings`), keys of theirs in the table `[run]`, or both, the latter
over the former.

Not here: reading files (`shared.config`), starting anything (`rehearsal.py`, `fleet.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from broker.link import PERFECT, LinkProfile
from shared.topics import NAME

__all__ = ["DeviceGroup", "PlannedDevice", "Scenario", "dotted"]

MAX_DEVICES = 1000
"""Of one group in a rehearsal: each has a connection and a proxy of its own on this machine."""
GroupName = Annotated[str, Field(pattern=f"^{NAME.pattern}$", max_length=40)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DeviceGroup(_Section):
    """Devices that are alike."""

    count: int = Field(1, ge=1, le=MAX_DEVICES, description="devices; they are called after the group, slow-1, slow-2")
    link: LinkProfile = Field(PERFECT, description="how bad their way to the broker is")
    killed_in_upload: bool = Field(
        False, description="each is a process of its own that is killed (SIGKILL) in mid-upload, for good"
    )


class Scenario(_Section):
    """The whole TOML of a fleet."""

    settings: Path | None = Field(None, description="the aggregator's settings, a TOML beside this one")
    run: dict[str, Any] = Field({}, description="keys of the aggregator's settings, over those in the file")
    seed: int | None = Field(
        None, ge=0, lt=2**63, description="of the run and of every link; default: the settings' own"
    )
    processes: int = Field(4, ge=1, le=64, description="that the devices share; each costs what the task imports")
    time_limit_s: float = Field(600, gt=0, description="after so many seconds the rehearsal gives up")
    devices: dict[GroupName, DeviceGroup] = Field(min_length=1, description="the fleet, group by group")

    @model_validator(mode="after")
    def _has_a_run(self) -> Self:
        if self.settings is None and "task" not in self.run:
            raise ValueError("nothing to learn: name a settings file, or at least run.task")
        if all(group.killed_in_upload for group in self.devices.values()):
            raise ValueError("devices: every one of them is killed: keep a group that lives")
        return self

    def plan(self) -> "tuple[PlannedDevice, ...]":
        """Return every device, in the order of their partitions: groups as written, numbers as counted."""
        named = [
            (f"{name}-{number}", name, group)
            for name, group in self.devices.items()
            for number in range(1, group.count + 1)
        ]
        return tuple(
            PlannedDevice(
                id=device,
                group=name,
                partition=(index, len(named)),
                link=group.link,
                killed_in_upload=group.killed_in_upload,
            )
            for index, (device, name, group) in enumerate(named)
        )

    def hosts(self) -> "tuple[tuple[PlannedDevice, ...], ...]":
        """Return who shares a process with whom; who is killed is alone."""
        plan = self.plan()
        living = [device for device in plan if not device.killed_in_upload]
        shared = (tuple(living[first :: self.processes]) for first in range(self.processes))
        alone = ((device,) for device in plan if device.killed_in_upload)
        return (*(host for host in shared if host), *alone)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedDevice:
    """One device of the fleet.

    Args:
        id: on the wire.
        group: whose.
        partition: (i, n), which part of the data is its own.
        link: its way to the broker.
        killed_in_upload: whether it is killed in mid-upload, for good.
    """

    id: str
    group: str
    partition: tuple[int, int]
    link: LinkProfile
    killed_in_upload: bool


def dotted(table: Mapping[str, Any], start: str = "") -> dict[str, Any]:
    """Return the leaves of nested tables by dotted key: {"round.report_goal": 12}."""
    leaves: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            leaves.update(dotted(value, f"{start}{name}."))
        else:
            leaves[f"{start}{name}"] = value
    return leaves
