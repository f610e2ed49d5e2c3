"""Everything that is refused, on a real Mosquitto: counted with its reason, answered, and without effect on the model.

One client speaks for many devices, as it may where a broker has no access rules, and sends raw payloads.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from aggregator.service import Aggregator, RunResult
from broker.config import BrokerSettings
from broker.mqtt import MqttTransport
from broker.server.mosquitto import find_mosquitto, running_mosquitto
from broker.transport import Connection
from edge_client.config import EdgeSettings
from edge_client.service import EdgeClient
from shared.chunking import ChunkLayout
from shared.errors import Reason
from shared.messages import Assignment, CheckIn, Control, Fleet, Outcome, Receipt
from shared.parameters import ParameterSpec
from shared.task import Client, ClientId
from shared.topics import AssignmentTopic, ControlTopic, FleetTopic, ReceiptTopic, Topics
from shared.wire import decode, encode
from tests.integration.linear import LinearTask, some_settings

pytestmark = [
    pytest.mark.mosquitto,
    pytest.mark.skipif(find_mosquitto() is None, reason="there is no Mosquitto on this machine"),
    pytest.mark.timeout(120),
]

TASK = LinearTask(padding=3000)
SPEC = ParameterSpec.of(TASK.initial_parameters(1))
TOPICS = Topics("fleet")
HONEST = ("good-0", "good-1", "good-2")
SOUND = np.full(SPEC.n_params, 0.001, "<f4").tobytes()
FLOOD = 200

Fields = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One refusal.

    Args:
        reason: that the receipt gives and the counter counts.
        change: to a sound report of the update in itself.
        update: the bytes of it.
    """

    reason: Reason
    change: Callable[[Fields], Fields] = dict
    update: bytes = SOUND


def _with(**changes: Any) -> Callable[[Fields], Fields]:
    return lambda fields: {**fields, **changes}


def _values(value: float) -> bytes:
    return np.full(SPEC.n_params, value, "<f4").tobytes()


ROWS = {
    "too-large": Row(Reason.PAYLOAD_TOO_LARGE, _with(extra=bytes(80_000))),
    "malformed": Row(Reason.MALFORMED, _with(extra=[[[[[]]]]] * 60)),
    "version": Row(Reason.VERSION, _with(v=2)),
    "bool": Row(Reason.FIELDS, _with(num_examples=True)),
    "no-examples": Row(Reason.FIELDS, _with(num_examples=0)),
    "another-lease": Row(Reason.FIELDS, _with(lease="0" * 32)),
    "codec": Row(Reason.CODEC, _with(codec="float16")),
    "length": Row(Reason.LENGTH, update=SOUND[:-4]),
    "size": Row(Reason.SIZE, _with(data=SOUND[:-4])),
    "digest": Row(Reason.DIGEST, _with(sha256="0" * 64)),
    "nan": Row(Reason.NOT_FINITE, update=_values(np.nan)),
    "inf": Row(Reason.NOT_FINITE, update=_values(np.inf)),
    "norm": Row(Reason.NORM, update=_values(1e6)),
}
OTHERS = ("chunks", "offers", "late")


class Mallory:
    """Speaks for every device whose name begins with `bad`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._news = asyncio.Event()
        self.fleet: Fleet | None = None
        self.leases: dict[str, str] = {}
        self.receipts: dict[str, list[Receipt]] = defaultdict(list)
        self.controls: dict[str, list[Control]] = defaultdict(list)

    async def listen(self) -> None:
        """Remember what is said to our devices."""
        async for message in self._connection.messages():
            match TOPICS.parse(message.topic):
                case FleetTopic():
                    self.fleet = decode(Fleet, message.payload)
                case AssignmentTopic(device):
                    self.leases[device] = decode(Assignment, message.payload).lease
                case ReceiptTopic(device):
                    self.receipts[device].append(decode(Receipt, message.payload))
                case ControlTopic(device):
                    self.controls[device].append(decode(Control, message.payload))
            self._news.set()

    async def until(self, condition: Callable[[], object]) -> None:
        """Return once something that arrived has made it true."""
        while not condition():
            self._news.clear()
            await self._news.wait()

    async def send(self, rest: str, payload: bytes) -> None:
        """Publish below what devices may write."""
        await self._connection.publish(f"{TOPICS.root}/from/{rest}", payload)

    async def check_in(self, device: str, **changes: Any) -> None:
        """Wait for work, as a device that could do it."""
        ours: Fields = {
            "boot": "b",
            "connection": 1,
            "protocols": [1],
            "codecs": ["float32"],
            "run": "test",
            "spec": SPEC.digest,
        }
        await self.send(f"{device}/check-in", encode(CheckIn(**{**ours, **changes})))

    async def report(self, device: str, row: Row, *, lease: str | None = None) -> None:
        """Send the report of a row."""
        lease = lease or self.leases[device]
        fields = {**a_report(lease, row.update), "data": row.update}
        await self.send(f"{device}/report/{lease}", msgpack.packb(row.change(fields)))

    async def answer(self, device: str, n: int = 1) -> Receipt:
        """Return the n-th receipt of a device."""
        await self.until(lambda: len(self.receipts[device]) >= n)
        return self.receipts[device][n - 1]

    async def everything_was_read(self) -> None:
        """Return when the aggregator has seen all that was sent before."""
        n = len(self.controls["bad-marker"])
        await self.check_in("bad-marker", protocols=[9])
        await self.until(lambda: len(self.controls["bad-marker"]) > n)


def a_report(lease: str, update: bytes) -> Fields:
    """Return the fields of a sound report, without what tells an offer from an update."""
    return {
        "v": 1,
        "lease": lease,
        "run": "test",
        "outcome": "trained",
        "codec": "float32",
        "num_examples": 10,
        "n_steps": 3,
        "size": len(update),
        "sha256": sha256(update).hexdigest(),
    }


@asynccontextmanager
async def a_run(folder: Path) -> AsyncIterator[tuple[Mallory, "asyncio.Task[RunResult]", BrokerSettings]]:
    """A broker, an aggregator that waits for devices, and somebody who speaks for many."""
    known = {"report_goal": 3, "over_selection": 10, "quorum": 1.0, "window_s": {"min": 100, "max": 100}}
    settings = some_settings(
        folder,
        round=known,
        server={"max_norm": 100.0},
        stop={"rounds": 2},
        transfer={"inline_bytes": 16_384, "check_in_interval_s": 1, "reconnect_window_s": 0},
    )
    async with running_mosquitto() as broker, asyncio.TaskGroup() as group:
        ours = BrokerSettings(url=broker.url)
        aggregator = Aggregator(settings, TASK, MqttTransport(ours, "aggregator"))
        serving = group.create_task(aggregator.run(), name="aggregator")
        async with MqttTransport(ours, "mallory").connect() as connection:
            mallory = Mallory(connection)
            listening = group.create_task(mallory.listen(), name="mallory")
            await connection.subscribe([f"{TOPICS.root}/to/+/+", TOPICS.build(FleetTopic())])
            await mallory.until(lambda: mallory.fleet is not None)
            try:
                yield mallory, serving, ours
            finally:
                listening.cancel()


async def take_part(folder: Path, ours: BrokerSettings) -> None:
    """Let the honest devices work until the run is over."""
    async with asyncio.TaskGroup() as group:
        for name in HONEST:
            settings = EdgeSettings(folder=folder / "devices", broker=ours)
            device = EdgeClient(settings, TASK, Client(id=ClientId(name)), MqttTransport(ours, name))
            group.create_task(device.run(), name=name)


async def test_hostile_messages_are_refused_answered_and_change_nothing(tmp_path: Path) -> None:
    """Every check of the admission in one run, which honest devices finish."""
    devices = [f"bad-{name}" for name in (*ROWS, *OTHERS)]
    async with a_run(tmp_path) as (mallory, serving, ours):
        for device in devices:
            await mallory.check_in(device)
        await mallory.until(lambda: mallory.leases.keys() >= set(devices))
        for name, row in ROWS.items():
            await mallory.report(f"bad-{name}", row)
        for name, row in ROWS.items():
            receipt = await mallory.answer(f"bad-{name}")
            assert (receipt.outcome, receipt.reason, receipt.repeat) == (Outcome.REJECTED, row.reason, False)

        await _what_is_final_stays(mallory)
        await _no_lease_of_ours(mallory)
        await _chunks_that_do_not_add_up(mallory)
        await _too_many_offers(mallory)
        await asyncio.gather(*(mallory.check_in("bad-flood", protocols=[9]) for _ in range(FLOOD)))
        await mallory.everything_was_read()

        await take_part(tmp_path, ours)
        await mallory.until(lambda: mallory.controls["bad-late"][-1:] and mallory.controls["bad-late"][-1].lease)
        await mallory.report("bad-late", Row(Reason.COMMITTED))
        late = await mallory.answer("bad-late")
        assert (late.outcome, late.reason, late.repeat) == (Outcome.CANCELLED, Reason.COMMITTED, True)
        result = await serving

    assert (result.cause, result.version) == ("rounds", 2)
    assert result.counts["accepted"] == 2 * len(HONEST)
    assert result.counts["rejected"] == len(ROWS) + 2
    rounds = [json.loads(line) for line in result.history.read_text().splitlines()]
    assert {name for each in rounds for name in each.get("participants", ())} == set(HONEST)
    assert (
        _refused(result)
        >= {
            "topic": 2,
            "unknown_lease": 2,
            "foreign_lease": 2,
            "other_run": 1,
            "chunk": 4,
            "payload_too_large": 1,
            "malformed": 3,
            "version": 1,
            "fields": 3,
            "codec": 1,
            "length": 1,
            "size": 1,
        }.items()
    )
    assert FLOOD / 2 < result.refused["rate"] < FLOOD


def _refused(result: RunResult) -> set[tuple[str, int]]:
    return set(result.refused.items())


async def _what_is_final_stays(mallory: Mallory) -> None:
    """The same answer again, whatever a device now says, and no work under it."""
    await mallory.report("bad-nan", Row(Reason.NOT_FINITE))
    again = await mallory.answer("bad-nan", 2)
    assert (again.outcome, again.reason, again.repeat) == (Outcome.REJECTED, Reason.NOT_FINITE, True)


async def _no_lease_of_ours(mallory: Mallory) -> None:
    """What names no lease of the device and of this run is counted, and nobody is answered."""
    before = {device: len(receipts) for device, receipts in mallory.receipts.items()}
    lease = mallory.leases["bad-late"]
    await mallory.report("bad-late", Row(Reason.UNKNOWN_LEASE), lease="f" * 32)
    await mallory.send(f"bad-late/chunk/{'f' * 32}/0", SOUND)
    await mallory.report("bad-nan", Row(Reason.FOREIGN_LEASE), lease=lease)
    await mallory.send(f"bad-nan/chunk/{lease}/0", SOUND)
    await mallory.report("bad-late", Row(Reason.OTHER_RUN, _with(run="another")))
    await mallory.send(f"bad-late/chunk/{lease}/0", SOUND)  # nothing was offered
    await mallory.send("Bad-late/check-in", b"")
    await mallory.send(f"bad-late/chunk/{lease}/01", b"")
    await mallory.send("bad-late/check-in", b"garbage")
    await mallory.send("bad-late/status", b"{")
    await mallory.everything_was_read()
    assert {device: len(receipts) for device, receipts in mallory.receipts.items()} == before


async def _chunks_that_do_not_add_up(mallory: Mallory) -> None:
    """Wrong indexes and lengths are counted; what is whole and wrong is asked for once more, then rejected."""
    lease = mallory.leases["bad-chunks"]
    fields = {**a_report(lease, SOUND), "chunk_bytes": 4096, "sha256": "0" * 64}
    await mallory.send(f"bad-chunks/report/{lease}", msgpack.packb(fields))
    layout = ChunkLayout(len(SOUND), 4096)
    for attempt in (1, 2):
        grant = await mallory.answer("bad-chunks", attempt)
        assert (grant.outcome, grant.need) == (Outcome.NEED, [(0, len(layout) - 1)])
        if attempt == 1:
            for rest, data in (
                (f"{lease}/{len(layout)}", SOUND),
                (f"{lease}/999999999", b""),
                (f"{lease}/0", b"short"),
            ):
                await mallory.send(f"bad-chunks/chunk/{rest}", data)
        for i in range(len(layout)):
            await mallory.send(f"bad-chunks/chunk/{lease}/{i}", bytes(layout.cut(SOUND, i)))
    verdict = await mallory.answer("bad-chunks", 3)
    assert (verdict.outcome, verdict.reason) == (Outcome.REJECTED, Reason.DIGEST)


async def _too_many_offers(mallory: Mallory) -> None:
    """A lease is good for eight different updates; the ninth ends it."""
    lease = mallory.leases["bad-offers"]
    for n in range(1, 10):
        fields = {**a_report(lease, SOUND), "chunk_bytes": 4096, "sha256": f"{n:064x}"}
        await mallory.send(f"bad-offers/report/{lease}", msgpack.packb(fields))
        receipt = await mallory.answer("bad-offers", n)
        assert receipt.outcome is (Outcome.NEED if n < 9 else Outcome.REJECTED)
    assert mallory.receipts["bad-offers"][-1].reason is Reason.OFFERS
