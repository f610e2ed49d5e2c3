"""A device's settings: one TOML, each key documented with its unit and why that default.

Every key can be overridden from the environment, `FEDMQ__TIMERS__STATUS_INTERVAL_S=10`. Most devices need none of it:
broker, fleet and task are enough, and the fleet's own limits come from the aggregator.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from broker.config import BrokerSettings
from shared.topics import NAME

__all__ = ["CacheSettings", "DeviceSettings", "EdgeSettings", "EligibilitySettings", "OutboxSettings", "TimerSettings"]

Name = Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
DeviceClass = Annotated[str, Field(max_length=32, pattern=r"^[a-z0-9][a-z0-9_.-]*$")]
Hour = Annotated[float, Field(ge=0, le=24)]
Partition = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]]

MIB = 2**20


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CacheSettings(_Section):
    """Models that were fetched."""

    quota_bytes: int = Field(
        2048 * MIB, ge=MIB, description="models kept on disk; the one used longest ago goes first, the one in use never"
    )


class OutboxSettings(_Section):
    """Finished updates that have no final outcome yet."""

    quota_bytes: int = Field(
        1024 * MIB, ge=MIB, description="updates kept on disk; the oldest goes first, and is named"
    )
    keep_days: float = Field(7, gt=0, description="days an update is kept; no run waits longer for a device")


class TimerSettings(_Section):
    """How long a device waits. Each wait is drawn anew within ± 20 %, so that a fleet never moves in step."""

    receipt_min_s: Seconds = Field(30, description="seconds without an answer after which an update is offered again")
    receipt_max_s: Seconds = Field(300, description="to which that wait doubles")
    parked_offer_s: Seconds = Field(3600, description="seconds between offers of an update that nobody answers")
    finish_s: Seconds = Field(60, description="seconds an update is offered after its run has finished")
    chunk_s: Seconds = Field(
        120, description="seconds without any chunk after which they are asked for again; at least 4 x the slowest"
    )
    check_in_interval_s: Seconds = Field(30, description="seconds between check-ins until the fleet says how many")
    status_interval_s: Seconds = Field(60, description="seconds between status messages while working, at most")
    conditions_interval_s: Seconds = Field(60, description="seconds between looks at memory, load and battery")
    permanent_retry_s: Seconds = Field(
        4 * 3600, description="seconds until the next try when only a person can help: another model, a cloned id"
    )

    @model_validator(mode="after")
    def _is_ordered(self) -> Self:
        if self.receipt_min_s > self.receipt_max_s:
            raise ValueError(f"receipt_min_s {self.receipt_min_s:g} is over receipt_max_s {self.receipt_max_s:g}")
        return self


class EligibilitySettings(_Section):
    """When this device takes part; unset: whatever its condition. Work that has begun is finished."""

    needs_mains: bool = Field(False, description="only on mains, or while the battery is being charged")
    min_battery: float | None = Field(None, ge=0, le=1, description="least charge, in [0, 1]")
    max_temperature_c: float | None = Field(
        None, ge=-40, le=150, description="most degrees Celsius of the hottest sensor"
    )
    allow_metered: bool = Field(True, description="false: not over a link that costs by the byte")
    metered_interfaces: list[str] = Field(
        ["wwan*", "ppp*", "rmnet*", "wwp*"],
        description="network interfaces that do, by name; a phone's hotspot looks like any Wi-Fi: name it here",
    )
    max_load: float | None = Field(None, gt=0, description="most runnable tasks a processor, over the last minute")
    min_free_memory_mb: int | None = Field(None, ge=1, description="least MiB that a program could still take")
    max_data_age_h: float | None = Field(
        None, gt=0, description="most hours since the newest of its data was written; needs data"
    )
    hours: list[tuple[Hour, Hour]] = Field(
        [], description="of the local day, [[22, 6]] for the night; 6.5 is half past six; unset: all of it"
    )
    unknown: Literal["pass", "refuse"] = Field(
        "pass", description="what a rule makes of a condition that cannot be read on this machine"
    )

    @field_validator("hours")
    @classmethod
    def _are_spans(cls, hours: list[tuple[float, float]]) -> list[tuple[float, float]]:
        for start, end in hours:
            if start == end:
                raise ValueError(f"[{start:g}, {end:g}] is no time at all; leave hours out for the whole day")
        return hours


class DeviceSettings(_Section):
    """One device of several in one process; what is unset is the process's own."""

    id: Name = Field(description="the device's name on the wire")
    url: str | None = Field(None, description="of its own way to the broker, such as a faulty link")
    device_class: DeviceClass | None = Field(None, description="what kind of device it is, in one word")
    data: Path | None = Field(None, description="its data, handed to the task as client.data")
    partition: Partition | None = Field(None, description="[i, n]: the i-th of n parts, handed to the task")
    keeps_state: bool | None = Field(None, description="whether it keeps anything of a training for the next")

    @field_validator("url")
    @classmethod
    def _is_broker(cls, url: str | None) -> str | None:
        try:
            return None if url is None else BrokerSettings(url=url).url
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error


class EdgeSettings(_Section):
    """The whole TOML of a device."""

    task: str | None = Field(None, description="module:name of the task")
    fleet: Name = Field("fleet", description="which aggregator: a segment of every topic")
    id: Name | None = Field(None, description="the device's name on the wire; default: from the host's name")
    device_class: DeviceClass | None = Field(
        None,
        description="what kind of device it is, in one word, such as pi-4: windows, selection and the fairness report "
        "go by it; default: what Linux's device tree tells",
    )
    data: Path | None = Field(None, description="its data, handed to the task as client.data")
    partition: Partition | None = Field(None, description="[i, n]: the i-th of n parts, handed to the task")
    keeps_state: bool = Field(
        True,
        description="false: it keeps nothing of a training for the next; runs whose algorithm or task needs that do "
        "without it",
    )
    devices: list[DeviceSettings] = Field([], description="several devices in this process, in place of id")
    broker: BrokerSettings = BrokerSettings()
    folder: Path = Field(
        Path("~/.local/state/fedmq"), description="state of every device lies below it, in <fleet>/<id>"
    )
    until_finished: bool | None = Field(
        None,
        description="end when the run is finished; unset: yes in process, no for the command, which waits for the next",
    )
    cache: CacheSettings = CacheSettings()
    outbox: OutboxSettings = OutboxSettings()
    timers: TimerSettings = TimerSettings()
    eligibility: EligibilitySettings = EligibilitySettings()

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        for partition in (self.partition, *(device.partition for device in self.devices)):
            if partition is not None and partition[0] >= partition[1]:
                i, n = partition
                raise ValueError(f"partition [{i}, {n}]: there are parts 0 to {n - 1}")
        ids = [device.id for device in self.devices]
        if len(set(ids)) < len(ids):
            raise ValueError("devices: two have the same id")
        return self

    def state_folder(self, client_id: str) -> Path:
        """Return where one device keeps what must survive a reboot."""
        return self.folder.expanduser() / self.fleet / client_id
