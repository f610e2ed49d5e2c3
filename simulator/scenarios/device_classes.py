"""Classes of devices: how long a batch takes on one, how much memory it has, what it runs on.

The numbers of the built-in ones are estimates, not measured here: a batch of 32 images of 28 x 28 through a small
convolutional network on the processor. What matters to a round is how they relate to each other. The Zero 2 W has the
four Cortex-A53 of a Pi 3 at 1 GHz; Raspberry Pi says that a Pi 5 computes two to three times as fast as a Pi 4. A
measured number of your own is better: `[classes.pi-4] seconds_per_batch = …` replaces one and keeps the rest.

Not here: how long a training takes in virtual time (`runs/training_time.py`).
"""

import math
from random import Random

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["CLASSES", "ClassSettings", "DeviceClass"]


class DeviceClass(BaseModel):
    """Devices of one make."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seconds_per_batch: float | None = Field(
        None, gt=0, le=1e6, allow_inf_nan=False, description="virtual seconds a batch; unset: as fast as this machine"
    )
    spread: float = Field(
        0.0, ge=0, le=3, allow_inf_nan=False, description="sigma of the lognormal factor of a device's own speed"
    )
    memory_mb: int | None = Field(None, ge=1, description="memory that is free for learning, in MiB; unset: unknown")
    cpus: float | None = Field(None, gt=0, le=1024, description="processors, as a container's limit; unset: no limit")
    has_battery: bool = Field(False, description="whether it runs on a battery while it is not charging")

    def factor(self, seed: int, device: str) -> float:
        """Return how much slower than its class one device is: lognormal, median 1, a function of seed and id."""
        return math.exp(Random(f"{seed}/{device}/speed").gauss(0.0, self.spread)) if self.spread else 1.0

    def batch_s(self, seed: int, device: str) -> float | None:
        """Return the seconds that a batch takes on one device; None: the class does not say."""
        return None if self.seconds_per_batch is None else self.seconds_per_batch * self.factor(seed, device)


class ClassSettings(BaseModel):
    """A class of one's own, or other numbers for a built-in one; what is unset is the built-in one's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seconds_per_batch: float | None = Field(
        None, gt=0, le=1e6, allow_inf_nan=False, description="virtual seconds a batch; in a rehearsal the least"
    )
    spread: float | None = Field(
        None, ge=0, le=3, allow_inf_nan=False, description="sigma of the lognormal factor of a device's own speed"
    )
    memory_mb: int | None = Field(None, ge=1, description="memory that is free for learning, in MiB")
    cpus: float | None = Field(None, gt=0, le=1024, description="processors, as a container's limit")
    has_battery: bool | None = Field(None, description="whether it runs on a battery while it is not charging")

    def over(self, known: DeviceClass | None) -> DeviceClass:
        """Return the class that these numbers make of a built-in one, or on their own."""
        own = self.model_dump(exclude_none=True)
        return DeviceClass.model_validate({**({} if known is None else known.model_dump()), **own})


CLASSES: dict[str, DeviceClass] = {
    "pi-zero-2": DeviceClass(seconds_per_batch=0.6, spread=0.1, memory_mb=256, cpus=0.4),
    "pi-4": DeviceClass(seconds_per_batch=0.12, spread=0.1, memory_mb=2048, cpus=1.0),
    "pi-5": DeviceClass(seconds_per_batch=0.05, spread=0.1, memory_mb=4096, cpus=2.0),
    "old-phone": DeviceClass(seconds_per_batch=0.3, spread=0.4, memory_mb=512, cpus=0.5, has_battery=True),
    "new-phone": DeviceClass(seconds_per_batch=0.04, spread=0.25, memory_mb=3072, cpus=2.0, has_battery=True),
    "gateway": DeviceClass(seconds_per_batch=0.03, spread=0.05, memory_mb=4096, cpus=2.0),
}
"""Built in. A phone's speed spreads wider: makes differ, and warm ones are slowed down."""
