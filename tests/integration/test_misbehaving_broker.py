"""Real services on a broker that misbehaves in one way each, in virtual time: every round commits, and all add up.

Each run looks from outside at what is published and at the journal: an update counts at most once, one device at most
once a version, and a receipt is never taken back. That a switch struck at all is checked with it.
"""

import logging
from collections import Counter
from pathlib import Path
from random import Random

import pytest
import structlog

from aggregator.journal import read_journal
from aggregator.records import AcceptRecord, CommitRecord, LeaseRecord, OutcomeRecord
from aggregator.results import RunResult
from broker.faults import Faults
from broker.link import Failures, LinkProfile
from edge_client.config import EdgeSettings, TimerSettings
from shared.messages import Outcome, Receipt
from shared.wire import decode
from simulator.fleet import AGGREGATOR, Fleet
from simulator.virtual_time import run_in_virtual_time
from tests.conftest import LONGEST_VIRTUAL_S
from tests.integration.linear import LinearTask, some_settings

N_DEVICES = 8
ROUNDS = 4
PADDING = 5000
"""Parameters more: a model of five chunks, and an update that has to be offered."""
RESETTING = LinkProfile(latency_s=0.05, jitter_s=0.05, resets_every_s=10.0)
"""Its clients connect anew all the time."""
STALLING = LinkProfile(latency_s=0.05, jitter_s=0.05, stalls=Failures(every_s=15.0, lasts_s=8.0))
"""Much is under way on it now and then."""


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
    """As `_live`, from its beginning to its end, without the log and without asyncio's debug mode."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    run = _live(folder, faults, rounds=rounds, seed=seed, padding=padding, link=link)
    return run_in_virtual_time(run, limit_s=LONGEST_VIRTUAL_S)


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
