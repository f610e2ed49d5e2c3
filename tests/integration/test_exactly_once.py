"""Counted exactly once: every row of the protocol's table of what is killed or damaged, in virtual time.

After each: every update counts once, and the model is, to the bit, what the journal yields without a crash. The same
rows on a real Mosquitto with real processes: `tests/aggregator/test_exactly_once_for_real.py`.
"""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from aggregator.config import Settings
from aggregator.history import RunHistory
from aggregator.journal import read_journal
from aggregator.model_store import ModelStore
from aggregator.records import AcceptRecord, CommitRecord, EpochRecord, LeaseRecord
from aggregator.service import RunResult
from broker.transport import Will
from shared.blocking import Lane
from shared.errors import AlreadyServed, ConfigError, leaf_of
from shared.messages import Outcome, Receipt, Report, Round
from shared.topics import ReceiptTopic, ReportTopic
from shared.wire import decode, encode_json
from simulator.fleet import AGGREGATOR, Fleet
from simulator.virtual_time import run_in_virtual_time
from tests.aggregator.exactly_once import Point, watch
from tests.aggregator.killed_run import replayed
from tests.integration.linear import LinearTask, some_settings
from tests.integration.second_aggregator import another

DEVICES = ["d0", "d1", "d2"]
DOWN_S = 5.0
"""Seconds between a death and the next life: clocks go on, and so do epochs."""
CHUNKED = pytest.mark.parametrize("inline_bytes", [1024, 0], ids=["inline", "in-chunks"])

Trouble = Callable[[Fleet], Awaitable[None]]


def a_run(folder: Path, inline_bytes: int = 1024) -> Settings:
    """Return settings of two rounds in which every one of three devices counts."""
    knobs = {"report_goal": 3, "over_selection": 1.0, "quorum": 1.0, "window_s": {"min": 60, "max": 600}}
    return some_settings(folder, round=knobs, stop={"rounds": 2}, transfer={"inline_bytes": inline_bytes})


def survive(folder: Path, settings: Settings, trouble: Trouble, **options: Any) -> RunResult:
    """Run a fleet of three through a trouble and to its end; then every promise is held to."""

    async def live() -> RunResult:
        async with Fleet(settings, LinearTask(), folder / "devices", **options) as fleet:
            fleet.start_aggregator()
            for i, device in enumerate(DEVICES):  # one after the other, so that there is a middle of the round
                fleet.add(device, delays={Lane.TRAINING: (3.0 + 5.0 * i, 5.0 + 5.0 * i)})
            await trouble(fleet)
            return await fleet.result()

    try:
        result = run_in_virtual_time(live(), limit_s=20_000.0)
    except BaseExceptionGroup as group:
        raise leaf_of(group) from group
    rows = list(read_journal(result.folder / "journal.sqlite"))
    accepts = [row for row in rows if isinstance(row, AcceptRecord)]
    assert len({row.lease for row in accepts}) == len(accepts) == result.counts["accepted"] == 6
    assert {(row.device, row.base_version) for row in accepts} == {(d, v) for d in DEVICES for v in (0, 1)}
    assert [row.version for row in rows if isinstance(row, CommitRecord)] == [1, 2]
    model = ModelStore(result.folder / "versions").load(2).parameters
    assert model.tobytes() == replayed(settings, rows, folder / "scratch")
    return result


class Stop:
    """Holds the aggregator at a point, once, and says when it is there."""

    def __init__(self, point: Point, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached = asyncio.Event()
        watch(point, self._stay, monkeypatch.setattr)

    async def _stay(self) -> None:
        self.reached.set()
        await asyncio.get_running_loop().create_future()


def killed_at(
    point: Point, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[Fleet], Awaitable[None]] | None = None
) -> Trouble:
    """Return the trouble of an aggregator that is killed at a point, and started again."""

    async def trouble(fleet: Fleet) -> None:
        await Stop(point, monkeypatch).reached.wait()
        await fleet.kill(AGGREGATOR)
        if meanwhile is not None:
            await meanwhile(fleet)
        await asyncio.sleep(DOWN_S)
        fleet.start_aggregator()

    return trouble


def rows_of(fleet: Fleet) -> list[Any]:
    """Return the rows that are durable now."""
    return list(read_journal(fleet.settings.output.folder / "test" / "journal.sqlite"))


class Heard:
    """What passed over the wire."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, str, bytes]] = []

    def __call__(self, name: str, topic: str, payload: bytes) -> None:
        """Take down what a service publishes."""
        self.messages.append((name, topic, payload))

    def receipts(self, fleet: Fleet) -> list[Receipt]:
        """Return the final receipts so far, in order."""
        topics = [(fleet.topics.parse(topic), payload) for name, topic, payload in self.messages if name == AGGREGATOR]
        found = [decode(Receipt, payload) for topic, payload in topics if isinstance(topic, ReceiptTopic)]
        return [receipt for receipt in found if receipt.outcome.is_final]


# killed before ACCEPT is durable


@CHUNKED
def test_killed_before_accept_is_durable_the_device_offers_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inline_bytes: int
) -> None:
    """Nobody was told anything, so the device still has its update."""
    survive(tmp_path, a_run(tmp_path, inline_bytes), killed_at(Point.BEFORE_ACCEPT, monkeypatch))


def test_killed_before_accept_is_durable_the_file_is_admitted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device is switched off: the whole update on the aggregator's disk is enough, and nobody sends it again."""

    async def trouble(fleet: Fleet) -> None:
        await Stop(Point.BEFORE_ACCEPT, monkeypatch).reached.wait()
        await fleet.kill(AGGREGATOR)
        updates = fleet.settings.output.folder / "test" / "updates"
        whole = {path.stem for path in updates.glob("*.update")}
        assert whole
        owners = {row.device for row in rows_of(fleet) if isinstance(row, LeaseRecord) and row.lease in whole}
        for device in owners:
            await fleet.kill(device)
        await asyncio.sleep(DOWN_S)
        fleet.start_aggregator()
        await fleet.until(lambda: whole <= {row.lease for row in rows_of(fleet) if isinstance(row, AcceptRecord)})
        for device in owners:
            fleet.start(device)

    survive(tmp_path, a_run(tmp_path, 0), trouble)


# killed after ACCEPT, before the receipt


@CHUNKED
def test_killed_after_accept_before_the_receipt_the_repeated_offer_gets_the_same_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inline_bytes: int
) -> None:
    """`accepted`, as a repetition; it is not counted a second time, and the first receipt had not been sent."""
    heard = Heard()

    async def trouble(fleet: Fleet) -> None:
        await Stop(Point.AFTER_ACCEPT, monkeypatch).reached.wait()
        await fleet.kill(AGGREGATOR)
        accepted = {row.lease for row in rows_of(fleet) if isinstance(row, AcceptRecord)}
        assert accepted
        assert not {receipt.lease for receipt in heard.receipts(fleet)} & accepted
        await asyncio.sleep(DOWN_S)
        fleet.start_aggregator()
        await fleet.until(lambda: accepted <= {receipt.lease for receipt in heard.receipts(fleet)})
        told = [receipt for receipt in heard.receipts(fleet) if receipt.lease in accepted]
        assert {(receipt.outcome, receipt.repeat) for receipt in told} == {(Outcome.ACCEPTED, True)}

    survive(tmp_path, a_run(tmp_path, inline_bytes), trouble, show=heard)


# killed while aggregating; after COMMIT, before the manifest


@CHUNKED
@pytest.mark.parametrize("point", [Point.BEFORE_VERSION, Point.AFTER_VERSION])
def test_killed_while_aggregating_it_is_folded_again_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inline_bytes: int, point: Point
) -> None:
    """Before the version file is written, and after, when no row says yet that it is the truth."""
    survive(tmp_path, a_run(tmp_path, inline_bytes), killed_at(point, monkeypatch))


@CHUNKED
def test_killed_after_commit_before_the_manifest_it_is_published_again_version_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inline_bytes: int
) -> None:
    """The manifest names version 0 at the death and the committed version 1 afterwards; its round has its record."""

    def manifest(fleet: Fleet) -> Round:
        return decode(Round, fleet.broker.retained[f"{fleet.topics.root}/run/test/round"])

    async def meanwhile(fleet: Fleet) -> None:
        assert manifest(fleet).model.version == 0

    async def trouble(fleet: Fleet) -> None:
        await killed_at(Point.AFTER_COMMIT, monkeypatch, meanwhile)(fleet)
        (committed,) = [row for row in rows_of(fleet) if isinstance(row, CommitRecord)]
        await fleet.until(lambda: manifest(fleet).model.version == 1)
        assert manifest(fleet).model.digest == committed.digest

    result = survive(tmp_path, a_run(tmp_path, inline_bytes), trouble)
    rounds = RunHistory.read(result.history).rounds
    assert [(each.round_id, each.version, each.outcome) for each in rounds] == [
        (1, 1, "committed"),
        (2, 2, "committed"),
    ]
    assert [set(each.participants) for each in rounds] == [set(DEVICES)] * 2


# the broker, with all it knew


@CHUNKED
def test_broker_killed_with_all_it_knew_everything_is_published_and_offered_again(
    tmp_path: Path, inline_bytes: int
) -> None:
    """In the middle of the reports: no session, no retained message is left; nobody is restarted."""

    async def trouble(fleet: Fleet) -> None:
        await fleet.until(lambda: fleet.status is not None and fleet.status.have == 1)
        fleet.broker.stop()
        assert not fleet.broker.retained
        await asyncio.sleep(DOWN_S)
        fleet.broker.start()

    survive(tmp_path, a_run(tmp_path, inline_bytes), trouble)


# the device, with a finished update


@CHUNKED
def test_device_killed_with_a_finished_update_offers_it_once_after_the_reboot(
    tmp_path: Path, inline_bytes: int
) -> None:
    """It does not train again: the very update that lay in its outbox is counted."""
    heard = Heard()

    def reports(fleet: Fleet) -> list[Report]:
        """Return what d0 has reported of its first lease so far."""
        found = [
            decode(Report, data, max_data_bytes=1024)
            for name, topic, data in heard.messages
            if name == "d0" and _is_report(fleet, topic)
        ]
        return [report for report in found if report.lease == found[0].lease]

    async def trouble(fleet: Fleet) -> None:
        await fleet.until(lambda: fleet.status is not None and fleet.status.phase == "reporting")
        await fleet.kill(AGGREGATOR)  # nobody hears the first offer
        await fleet.until(lambda: reports(fleet))
        await fleet.kill("d0")
        before = reports(fleet)
        await asyncio.sleep(DOWN_S)
        fleet.start_aggregator()
        fleet.start("d0")
        await fleet.until(lambda: len(reports(fleet)) > len(before))
        assert {report.sha256 for report in reports(fleet)} == {before[0].sha256}

    survive(tmp_path, a_run(tmp_path, inline_bytes), trouble, show=heard)


def _is_report(fleet: Fleet, topic: str) -> bool:
    return isinstance(fleet.topics.parse(topic), ReportTopic)


# a journal shorter than its head


def without_last_row(monkeypatch: pytest.MonkeyPatch) -> Trouble:
    """Return the trouble of a journal that loses its last row, an ACCEPT, although its head names it."""

    async def lose(fleet: Fleet) -> None:
        with closing(sqlite3.connect(fleet.settings.output.folder / "test" / "journal.sqlite")) as database:
            (kind,) = database.execute("SELECT kind FROM journal ORDER BY seq DESC LIMIT 1").fetchone()
            assert kind == "accept"
            database.execute("DELETE FROM journal WHERE seq = (SELECT max(seq) FROM journal)")
            database.commit()

    return killed_at(Point.AFTER_ACCEPT, monkeypatch, lose)


def test_journal_shorter_than_its_head_gets_its_accept_back_from_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was receipted, or was about to be, is not gone while its file is there."""
    survive(tmp_path, a_run(tmp_path, 0), without_last_row(monkeypatch))


def test_journal_shorter_than_its_head_by_an_inline_accept_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The update was in the row alone: nothing is rebuilt silently, and the command that helps is named."""
    with pytest.raises(ConfigError, match=r"row \d+.*missing|missing.*row \d+|rows \d+") as caught:
        survive(tmp_path, a_run(tmp_path, 1024), without_last_row(monkeypatch))
    assert "repair" in str(caught.value)


# a second aggregator


def test_second_aggregator_in_the_same_folder_exits_naming_the_first(tmp_path: Path) -> None:
    """The lock file says who holds it; the first serves on as if nothing had happened."""

    async def trouble(fleet: Fleet) -> None:
        await fleet.until(lambda: fleet.status is not None and fleet.status.have == 1)
        with pytest.raises(AlreadyServed, match=r"pid \d+"):
            await another(fleet, fleet.settings).run()

    survive(tmp_path, a_run(tmp_path), trouble)


def test_second_aggregator_elsewhere_exits_naming_the_first(tmp_path: Path) -> None:
    """It finds a status that changes, before it has claimed anything."""

    async def trouble(fleet: Fleet) -> None:
        await fleet.until(lambda: fleet.status is not None and fleet.status.have == 1)
        with pytest.raises(AlreadyServed, match=fleet.status.instance if fleet.status else ""):
            await another(fleet, a_run(tmp_path / "elsewhere")).run()

    survive(tmp_path, a_run(tmp_path), trouble)


def test_aggregator_that_sees_a_higher_epoch_exits_and_goes_on_when_it_is_started_again(tmp_path: Path) -> None:
    """Of two that claimed at once the one with the lower epoch leaves; its journal is whole, its next epoch higher."""
    ended: list[Exception] = []

    def on_error(name: str, error: Exception) -> bool:
        ended.append(error)
        return True

    async def trouble(fleet: Fleet) -> None:
        await fleet.until(lambda: fleet.status is not None and fleet.status.have == 1)
        assert fleet.status is not None
        higher = fleet.status.model_copy(update={"epoch": fleet.status.epoch + 1000, "instance": "usurper"})
        topic = f"{fleet.topics.root}/aggregator/status"
        async with fleet.broker.transport("usurper").connect(will=Will(topic, b"")) as connection:
            await connection.publish(topic, encode_json(higher), retained=True)
            await fleet.until(lambda: not fleet.is_running(AGGREGATOR))
            assert isinstance(ended[0], AlreadyServed)
            assert "usurper" in str(ended[0])
            await connection.publish(topic, b"", retained=True)
        await asyncio.sleep(2000.0)  # epochs are Unix seconds
        fleet.start_aggregator()

    result = survive(tmp_path, a_run(tmp_path), trouble, on_error=on_error)
    epochs = [row.epoch for row in read_journal(result.folder / "journal.sqlite") if isinstance(row, EpochRecord)]
    assert epochs == sorted(set(epochs))


def test_aggregator_that_sees_a_lower_epoch_publishes_its_own_again(tmp_path: Path) -> None:
    """An older one that still talks changes nothing."""

    async def trouble(fleet: Fleet) -> None:
        await fleet.until(lambda: fleet.status is not None and fleet.status.have == 1)
        ours = fleet.status
        assert ours is not None
        lower = ours.model_copy(update={"epoch": ours.epoch - 1, "instance": "older"})
        topic = f"{fleet.topics.root}/aggregator/status"
        async with fleet.broker.transport("older").connect() as connection:
            await connection.publish(topic, encode_json(lower), retained=True)
        await fleet.until(lambda: fleet.status is not None and fleet.status.instance == ours.instance)

    survive(tmp_path, a_run(tmp_path), trouble)
