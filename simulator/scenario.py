"""A fleet, as written down: what it learns, on which devices, over which links, and what goes wrong.

One TOML describes it, for a rehearsal with processes and a broker as for virtual time. The run itself is described by
the aggregator's own settings: a file of theirs (`settings`), keys of theirs in the table `[run]`, or both, the latter
over the former. Seconds are virtual in `simulator run` and real in `simulator rehearse`.

Not here: what classes, links, availability and faults are (`scenarios/`), reading files (`shared.config`), starting
anything (`rehearsal.py`, `fleet.py`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from broker.link import PERFECT, LinkProfile
from edge_client.config import EligibilitySettings
from shared.errors import ConfigError
from shared.topics import NAME
from simulator.scenarios.attacks import AttackSettings
from simulator.scenarios.availability import ALWAYS, Absence, Availability, always_or_table
from simulator.scenarios.device_classes import CLASSES, ClassSettings, DeviceClass
from simulator.scenarios.faults import NO_FAULTS, DeviceFaults, FleetFault
from simulator.scenarios.links import link_table

__all__ = ["DeviceGroup", "Executor", "PlannedDevice", "Scenario", "dotted"]

MAX_DEVICES = 1_000_000
MAX_REHEARSED = 1000
"""Of one group in a rehearsal: each has a connection and a proxy of its own on this machine."""
SHARES_DIFFER = 1e-6
"""By so much the sum of shares may miss 1: a third is written 0.333333."""

GroupName = Annotated[str, Field(pattern=f"^{NAME.pattern}$", max_length=40)]
Executor = Literal["inline", "processes"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class DeviceGroup(_Section):
    """Devices that are alike."""

    count: int | None = Field(
        None,
        ge=1,
        le=MAX_DEVICES,
        description="devices, slow-1, slow-2 by the group's name; 1 where no group has a share",
    )
    share: float | None = Field(None, gt=0, le=1, description="of n_devices, in place of count; all shares sum to 1")
    device_class: str | None = Field(
        None, alias="class", description="built in or of [classes]; default: the group's name if there is such a class"
    )
    link: Annotated[LinkProfile, BeforeValidator(link_table)] = Field(
        PERFECT, description="how bad their way to the broker is: a name, or a table, which may say base and loss"
    )
    availability: Annotated[Availability, BeforeValidator(always_or_table)] = Field(
        ALWAYS, description='when they are there: "always", or a table'
    )
    eligibility: EligibilitySettings = Field(
        EligibilitySettings(), description="the devices' own rules, as in their settings: who takes part when"
    )
    keeps_state: bool = Field(
        True,
        description="false: they keep nothing of a training for the next, which some algorithms need",
    )
    faults: DeviceFaults = Field(NO_FAULTS, description="what goes wrong on each")
    attack: AttackSettings | None = Field(None, description="what each sends in place of its update")
    killed_in_upload: bool = Field(
        False,
        description="each is killed (SIGKILL) in mid-upload, for good; in a rehearsal it has a process of its own",
    )


class Scenario(_Section):
    """The whole TOML of a fleet."""

    settings: Path | None = Field(None, description="the aggregator's settings, a TOML beside this one")
    run: dict[str, Any] = Field({}, description="keys of the aggregator's settings, over those in the file")
    seed: int | None = Field(
        None, ge=0, lt=2**63, description="of the run and of every link; default: the settings' own"
    )
    n_devices: int | None = Field(None, ge=1, le=MAX_DEVICES, description="the fleet; needed when groups give a share")
    executor: Executor = Field(
        "inline", description="run: inline, or processes: what overlaps in virtual time runs on all cores"
    )
    virtual_limit_s: float = Field(
        30 * 86_400, gt=0, le=1e9, description="run: after so many virtual seconds the simulation gives up"
    )
    start_hour: float = Field(0.0, ge=0, lt=24, description="hour of the day at which the run begins")
    processes: int = Field(
        4, ge=1, le=64, description="rehearse: that the devices share; each costs what the task imports"
    )
    time_limit_s: float = Field(600, gt=0, description="rehearse: after so many real seconds it gives up")
    classes: dict[GroupName, ClassSettings] = Field(
        {}, description="classes of devices of one's own, or other numbers for built-in ones"
    )
    devices: dict[GroupName, DeviceGroup] = Field(min_length=1, description="the fleet, group by group")
    faults: tuple[FleetFault, ...] = Field((), description="what happens to all, on schedule")

    @model_validator(mode="after")
    def _has_a_run(self) -> Self:
        if self.settings is None and "task" not in self.run:
            raise ValueError("nothing to learn: name a settings file, or at least run.task")
        if all(group.killed_in_upload for group in self.devices.values()):
            raise ValueError("devices: every one of them is killed: keep a group that lives")
        return self

    @model_validator(mode="after")
    def _knows_its_classes(self) -> Self:
        for name, own in self.classes.items():
            if name not in CLASSES and own.seconds_per_batch is None:
                raise ValueError(f"classes.{name}.seconds_per_batch: is missing, for {name} is not built in")
        known = {**CLASSES, **self.classes}
        for name, group in self.devices.items():
            chosen = group.device_class
            if chosen is not None and chosen not in known:
                raise ValueError(
                    f"devices.{name}.class = {chosen!r}: there is no such class; there are {', '.join(known)}"
                )
        return self

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        shares = {name: group.share for name, group in self.devices.items() if group.share is not None}
        if not shares:
            n = sum(group.count or 1 for group in self.devices.values())
            if self.n_devices not in (None, n):
                raise ValueError(f"n_devices = {self.n_devices}: the groups' counts make {n}")
            return self
        for name, group in self.devices.items():
            if group.count is not None and group.share is not None:
                raise ValueError(f"devices.{name}: count and share exclude each other: keep one")
            if group.share is None:
                raise ValueError(f"devices.{name}.share: is missing, for other groups give a share and not a count")
        if self.n_devices is None:
            raise ValueError("n_devices: is missing (the fleet; needed when groups give a share)")
        if abs(sum(shares.values()) - 1) > SHARES_DIFFER:
            written = " + ".join(f"{share:g}" for share in shares.values())
            raise ValueError(f"devices: the shares sum to {written} = {sum(shares.values()):g}, not to 1")
        for name, n in self.counts.items():
            if not n:
                raise ValueError(f"devices.{name}.share = {shares[name]:g}: is not one device of {self.n_devices}")
        return self

    @model_validator(mode="after")
    def _has_attackers_enough(self) -> Self:
        attackers = {name: n for name, n in self.counts.items() if self.devices[name].attack is not None}
        for name, group in self.devices.items():
            if sum(attackers.values()) == 1 and group.attack is not None and group.attack.kind == "little":
                raise ValueError(
                    f"devices.{name}.attack: little hides in the spread of two attackers or more: count = 2"
                )
        return self

    @property
    def counts(self) -> Mapping[str, int]:
        """Devices of each group; of shares, by the largest remainder."""
        if self.n_devices is None or all(group.share is None for group in self.devices.values()):
            return {name: group.count or 1 for name, group in self.devices.items()}
        exact = {name: (group.share or 0.0) * self.n_devices for name, group in self.devices.items()}
        counts = {name: int(each + SHARES_DIFFER) for name, each in exact.items()}
        by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])  # stable: as written
        for name in by_remainder[: self.n_devices - sum(counts.values())]:
            counts[name] += 1
        return counts

    @property
    def has_processes(self) -> bool:
        """Whether trainings that overlap run on all cores."""
        return self.executor == "processes"

    def class_of(self, group: str) -> tuple[str, DeviceClass]:
        """Return name and numbers of a group's class; ("", no numbers) when it has none."""
        name = self.devices[group].device_class or group
        own, known = self.classes.get(name), CLASSES.get(name)
        if own is not None:
            return name, own.over(known)
        return (name, known) if known is not None else ("", DeviceClass())

    def plan(self) -> "tuple[PlannedDevice, ...]":
        """Return every device, in the order of their partitions: groups as written, numbers as counted."""
        counts = self.counts
        return tuple(self._planned(sum(counts.values())))

    def _planned(self, n_devices: int) -> "Iterator[PlannedDevice]":
        index = 0
        for name, count in self.counts.items():
            group, (class_name, device_class) = self.devices[name], self.class_of(name)
            for number in range(1, count + 1):
                yield PlannedDevice(
                    id=f"{name}-{number}",
                    group=name,
                    number=number,
                    partition=(index, n_devices),
                    class_name=class_name,
                    device_class=device_class,
                    link=group.link,
                    availability=group.availability,
                    eligibility=group.eligibility,
                    keeps_state=group.keeps_state,
                    faults=group.faults,
                    attack=group.attack,
                    killed_in_upload=group.killed_in_upload,
                )
                index += 1

    def check_rehearsable(self) -> None:
        """Refuse a fleet that cannot be rehearsed with processes.

        Raises:
            ConfigError: a group has more devices than this machine is asked to carry, or the broker is to keep what a
                rehearsal's broker forgets.
        """
        if any(fault.keeps_retained for fault in self.faults):
            raise ConfigError(
                "faults: keeps_retained = true: the broker of a rehearsal keeps nothing on its disk",
                hint="leave it out, or use `python -m simulator run`",
            )
        for name, count in self.counts.items():
            if count > MAX_REHEARSED:
                raise ConfigError(
                    f"devices.{name}: {count} devices; a rehearsal takes at most {MAX_REHEARSED} of a group",
                    hint="`python -m simulator run` has room for more",
                )

    def hosts(self) -> "tuple[tuple[PlannedDevice, ...], ...]":
        """Return who shares a process with whom; who is killed or switched off is alone."""
        plan = self.plan()
        steady = [device for device in plan if not device.is_alone]
        shared = (tuple(steady[first :: self.processes]) for first in range(self.processes))
        alone = ((device,) for device in plan if device.is_alone)
        return (*(host for host in shared if host), *alone)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedDevice:
    """One device of the fleet.

    Args:
        id: on the wire.
        group: whose.
        number: within its group, from 1.
        partition: (i, n), which part of the data is its own.
        class_name: of its class, "" for none.
        device_class: what that class can do.
        link: its way to the broker.
        availability: when it is there.
        eligibility: its own rules.
        keeps_state: whether it keeps anything of a training for the next.
        faults: what goes wrong on it.
        attack: what it sends in place of its update; None: it is honest.
        killed_in_upload: whether it is killed in mid-upload, for good.
    """

    id: str
    group: str
    number: int
    partition: tuple[int, int]
    class_name: str
    device_class: DeviceClass
    link: LinkProfile
    availability: Availability = field(hash=False)
    eligibility: EligibilitySettings = field(hash=False)
    keeps_state: bool = True
    faults: DeviceFaults
    attack: AttackSettings | None
    killed_in_upload: bool

    @property
    def is_alone(self) -> bool:
        """Whether it needs a process of its own in a rehearsal, for that ends before the run does."""
        is_switched = not self.availability.is_always and self.availability.absence is Absence.OFF
        return self.killed_in_upload or is_switched or self.faults != NO_FAULTS


def dotted(table: Mapping[str, Any], start: str = "") -> dict[str, Any]:
    """Return the leaves of nested tables by dotted key: {"round.report_goal": 12}."""
    leaves: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            leaves.update(dotted(value, f"{start}{name}."))
        else:
            leaves[f"{start}{name}"] = value
    return leaves
