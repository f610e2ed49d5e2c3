"""A reception beside an engine with a round under way."""

from pathlib import Path
from typing import Any

import numpy as np

from aggregator import events as ev
from aggregator.intake import Intake
from aggregator.part_files import PartFiles
from aggregator.reception import Reception
from aggregator.uploads import Uploads
from broker.transport import Message
from shared.blocking import Threads
from shared.messages import CheckIn, Kind
from shared.parameters import ParameterSpec
from shared.task import Initial
from shared.topics import ReportTopic, Topics
from tests.aggregator.builders import (
    RUN,
    SIX,
    Engine,
    a_lease,
    lease_name,
    some_settings,
)

__all__ = ["EVALUATION", "SPEC", "TOPICS", "UPDATE", "Desk", "a_check_in"]

SPEC = ParameterSpec.of(Initial({"w": np.zeros(10, np.float32)}))
UPDATE = np.arange(10, dtype="<f4").tobytes()
TOPICS = Topics("fleet")
EVALUATION = lease_name(77)


class Desk:
    """A reception beside an engine with a round under way; what it passes on reaches the engine only by `settle`.

    Args:
        folder: for part files; nothing is written, for the intake does not work.
    """

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.engine = Engine()
        self.engine.check_in(*SIX)
        machine = self.engine.machine
        machine.leases.issue(a_lease(77, "e1", kind=Kind.EVALUATE), now=0.0, expires_at=60.0)
        self.told: list[ev.Event] = []
        self.intake = Intake(
            Uploads(max_bytes=2**20, max_chunks=500),
            PartFiles(folder),
            Threads(),
            spec=SPEC,
            max_norm=None,
            tell=self.told.append,
        )
        self.reception = Reception(
            some_settings(**settings),
            run=RUN,
            topics=TOPICS,
            spec=SPEC,
            leases=machine.leases,
            intake=self.intake,
            tell=self.told.append,
        )
        self.now = 0.0

    def lease(self, device: str = "d0") -> str:
        """Return the live lease of a device."""
        return self.engine.lease_of(device)

    def report(self, payload: bytes, *, device: str = "d0", lease: str | None = None) -> list[ev.Event]:
        """Let a device say something under a lease; returns what was passed on."""
        topic = TOPICS.build(ReportTopic(device, lease or self.lease()))
        return self.receive(topic, payload)

    def receive(self, topic: str, payload: bytes) -> list[ev.Event]:
        """Let a message arrive, one second after the one before."""
        self.now += 1.0
        self.told.clear()
        self.reception.receive(Message(topic, payload), self.now)
        return list(self.told)

    def settle(self) -> None:
        """Let the engine take what was passed on."""
        self.engine(*self.told)

    @property
    def n_refused(self) -> int:
        """How many messages were refused."""
        return self.reception.refused.total()


def a_check_in(**fields: Any) -> CheckIn:
    """Return the check-in of an eligible device."""
    ours: dict[str, Any] = {
        "run": RUN,
        "spec": SPEC.digest,
        "boot": "b1",
        "connection": 1,
        "protocols": [1],
        "codecs": ["float32"],
    }
    return CheckIn(**{**ours, **fields})
