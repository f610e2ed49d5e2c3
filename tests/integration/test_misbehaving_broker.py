"""Real services on a broker that misbehaves in one way each, in virtual time: every round commits, and all add up.

Each run looks from outside at what is published and at the journal: an update counts at most once, one device at most
once a version, and a receipt is never taken back. That a switch struck at all is checked with it.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import pytest
import structlog

from aggregator.journal import read_journal
from aggregator.records import AcceptRecord, CommitRecord, LeaseRecord, OutcomeRecord
from aggregator.results import RunResult
from broker.faults import Faults
from broker.link import Failures, LinkProfile
from edge_client.config import EdgeSettings, TimerSettings
from shared.errors import ConfigError, leaf_of
from shared.messages import Outcome, Receipt
from shared.wire import decode
from simulator.fleet import AGGREGATOR, Fleet
from simulator.virtual_time import run_in_virtual_time
from tests.conftest import LONGEST_VIRTUAL_S
from tests.integration.linear import LinearTask, some_settings

T = TypeVar("T")

N_DEVICES = 8
ROUNDS = 3
PADDING = 5000
"""Parameters more: a model of five chunks, and an update that has to be offered."""
RESETTING = LinkProfile(latency_s=0.05, jitter_s=0.05, resets_every_s=10.0)
"""Its clients connect anew all the time."""
STALLING = LinkProfile(latency_s=0.05, jitter_s=0.05, stalls=Failures(every_s=15.0, lasts_s=8.0))
"""Much is under way on it now and then."""


def _quietly(run: Coroutine[Any, Any, T]) -> T:
    """Run without the log and without asyncio's debug mode: both take longer than what they watch."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    return run_in_virtual_time(run, limit_s=LONGEST_VIRTUAL_S)


class Receipts:
    """Every final receipt that the aggregator has sent; one lease is told one thing for ever."""

    def __init__(self) -> None:
        self.final: dict[str, Outcome] = {}

    def see(self, name: str, topic: str, payload: bytes) -> None:
        """As `Fleet` shows it."""
        if name == AGGREGATOR and topic.endswith("/receipt"):
            receipt = decode(Receipt, payload)
            if receipt.outcome.is_final:
                assert self.final.setdefault(receipt.lease, receipt.outcome) is receipt.outcome


def _check(folder: Path, receipts: Receipts, result: RunResult, rounds: int) -> None:
    """Hold receipts, journal and result against each other."""
    records = list(read_journal(folder / "runs" / "test" / "journal.sqlite"))
    accepted = [record for record in records if isinstance(record, AcceptRecord)]
    outcomes = {record.lease: record.outcome for record in records if isinstance(record, OutcomeRecord)}
    leased = {record.lease: record.device for record in records if isinstance(record, LeaseRecord)}
    assert result.version == rounds
    assert [record.version for record in records if isinstance(record, CommitRecord)] == list(range(1, rounds + 1))
    assert len({record.lease for record in accepted}) == len(accepted) == result.counts["accepted"]
    assert len({(record.device, record.base_version) for record in accepted}) == len(accepted)
    assert all(leased[record.lease] == record.device for record in accepted)
    outcomes |= {record.lease: Outcome.ACCEPTED for record in accepted}
    assert receipts.final.items() <= outcomes.items()
    assert list(receipts.final.values()).count(Outcome.ACCEPTED) >= rounds


async def _live(
    folder: Path, faults: Faults, *, rounds: int, seed: int, padding: int, link: LinkProfile | None = None
) -> Counter[str]:
    """Carry a run out and check it; returns how often each switch struck."""
    receipts = Receipts()
    settings = some_settings(folder, stop={"rounds": rounds})
    edge = EdgeSettings(timers=TimerSettings(receipt_min_s=10, receipt_max_s=60))
    async with Fleet(
        settings, LinearTask(padding), folder, seed=seed, faults=faults, edge=edge, show=receipts.see
    ) as fleet:
        fleet.start_aggregator()
        for i in range(N_DEVICES):
            fleet.add(f"d{i}", link=link)
        result = await fleet.result()
        _check(folder, receipts, result, rounds)
        return fleet.broker.struck


def _survives(
    folder: Path,
    faults: Faults,
    *,
    rounds: int = ROUNDS,
    seed: int = 0,
    padding: int = PADDING,
    link: LinkProfile | None = None,
) -> Counter[str]:
    """As `_live`, from its beginning to its end."""
    return _quietly(_live(folder, faults, rounds=rounds, seed=seed, padding=padding, link=link))


@pytest.mark.parametrize(
    ("switch", "padding", "faults"),
    [
        ("lose_qos0", PADDING, Faults(lose_qos0=0.5)),
        ("lose_acknowledged", 0, Faults(lose_acknowledged=0.1)),
        ("lose_acknowledged", PADDING, Faults(lose_acknowledged=0.05)),
        ("duplicate_qos1", 0, Faults(duplicate_qos1=0.5)),
        ("duplicate_qos1", PADDING, Faults(duplicate_qos1=0.5)),
        ("reorder", 0, Faults(reorder=0.5, reorder_s=5.0)),
        ("reorder", PADDING, Faults(reorder=0.5, reorder_s=5.0)),
        ("delay", 0, Faults(delay=0.1)),
        ("delay", PADDING, Faults(delay=0.03)),
        ("max_queued_messages", PADDING, Faults(max_queued_messages=4, link=STALLING)),
        ("stalled_head", PADDING, Faults(stalled_head=4, link=STALLING)),
        ("discard_after_s", PADDING, Faults(discard_after_s=5.0, link=STALLING)),
        ("leak_retained", PADDING, Faults(leak_retained=True, link=RESETTING)),
        ("crash_every_s", PADDING, Faults(crash_every_s=8.0, crash_lasts_s=5.0)),
        ("crash_every_s", PADDING, Faults(crash_every_s=8.0, crash_lasts_s=5.0, autosave_s=10.0)),
        ("crash_every_s", 0, Faults(crash_every_s=10.0, crash_lasts_s=5.0, autosave_s=0.0)),
        ("late_will", PADDING, Faults(late_will=1.0, late_will_s=20.0, link=RESETTING)),
        ("lose_will", PADDING, Faults(lose_will=1.0, link=RESETTING)),
    ],
)
def test_run_survives(tmp_path: Path, switch: str, padding: int, faults: Faults) -> None:
    """The broker does, all the time, what a real one was seen to do, and the run ends as any other."""
    struck = _survives(tmp_path, faults, padding=padding)
    assert struck[switch] > 0


@pytest.mark.parametrize("seed", range(6))
def test_run_survives_a_random_mix(tmp_path: Path, seed: int) -> None:
    """Three misbehaviours or more at a time, as they are drawn for crash schedules."""
    faults = Faults.drawn(Random(seed))
    _survives(tmp_path, faults, seed=seed)


DROPS_CHUNKS = Faults(drop_above_bytes=4096)
CUTS_AT_CHUNKS = Faults(cut_above_bytes=4096)
CHUNKS_ABOVE = {"chunk_bytes": 8192}


@pytest.mark.parametrize(
    ("phase", "faults"), [("", CUTS_AT_CHUNKS), ("reporting", CUTS_AT_CHUNKS), ("reporting", DROPS_CHUNKS)]
)
def test_limit_that_nobody_announced_is_waited_out(tmp_path: Path, phase: str, faults: Faults) -> None:
    """A broker that drops chunks, or throws out who sends them: the run goes on as soon as its operator lets it.

    Devices that are thrown out send smaller chunks meanwhile; the model's are the aggregator's, and stay.
    """

    async def live() -> None:
        settings = some_settings(tmp_path, stop={"rounds": 2}, transfer=CHUNKS_ABOVE)
        async with Fleet(settings, LinearTask(PADDING), tmp_path, faults=Faults() if phase else faults) as fleet:
            fleet.start_aggregator()
            for i in range(6):
                fleet.add(f"d{i}")
            await fleet.until(lambda: fleet.status is not None and fleet.status.phase == phase)
            fleet.broker.faults = faults
            await asyncio.sleep(200.0)
            assert sum(fleet.broker.struck.values()) > 10
            assert fleet.is_running(AGGREGATOR)
            if phase and faults is CUTS_AT_CHUNKS:
                journal = read_journal(tmp_path / "runs" / "test" / "journal.sqlite")
                assert sum(isinstance(record, AcceptRecord) for record in journal) >= 3
            fleet.broker.faults = Faults()
            async with asyncio.timeout(300.0):
                assert (await fleet.result()).version == 2

    _quietly(live())


def test_chunks_that_are_acknowledged_and_dropped_are_refused_at_the_start(tmp_path: Path) -> None:
    """The first model is read back: whoever starts a run on such a broker is told, with the setting to look at."""

    async def live() -> None:
        settings = some_settings(tmp_path, transfer=CHUNKS_ABOVE)
        async with Fleet(settings, LinearTask(PADDING), tmp_path, faults=DROPS_CHUNKS) as fleet:
            fleet.start_aggregator()
            await fleet.result()

    with pytest.raises(ExceptionGroup) as caught:
        _quietly(live())
    error = leaf_of(caught.value)
    assert isinstance(error, ConfigError)
    assert "message_size_limit" in str(error)


def test_nothing_above_an_announced_limit_is_ever_sent(tmp_path: Path) -> None:
    """A broker that says what it takes, and drops or cuts above it, finds nothing to drop or to cut."""
    limit = 4096  # the size of a chunk
    faults = Faults(max_payload_bytes=limit, drop_above_bytes=limit, cut_above_bytes=limit)
    assert not _survives(tmp_path, faults)


def test_truncated_wildcards_hide_nobody(tmp_path: Path) -> None:
    """Presence is asked for at QoS 0, models by name: a broker that truncates has nothing to truncate."""
    faults = Faults(wildcard_retained=1, crash_every_s=8.0, autosave_s=0.0)
    struck = _survives(tmp_path, faults)
    assert struck["crash_every_s"] > 0
    assert struck["wildcard_retained"] == 0


def test_aggregator_contradicts_its_own_late_will(tmp_path: Path) -> None:
    """What its former connection left, a minute later, over its status: it says again at once that it is there."""

    async def live() -> None:
        faults = Faults(late_will=1.0)
        async with Fleet(some_settings(tmp_path), LinearTask(), tmp_path, faults=faults) as fleet:
            fleet.start_aggregator()  # without devices it waits
            await fleet.until(lambda: fleet.status is not None and fleet.status.phase == "waiting")
            fleet.broker.cut(AGGREGATOR)
            await fleet.until(lambda: not _is_online(fleet))
            assert fleet.broker.struck["late_will"] == 1
            async with asyncio.timeout(1.0):
                await fleet.until(lambda: _is_online(fleet))

    _quietly(live())


def _is_online(fleet: Fleet) -> bool:
    return fleet.status is not None and fleet.status.online
