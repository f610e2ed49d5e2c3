"""A run that changes the size of its chunks leaves nothing of the old ones on the broker."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from aggregator.past_models import chunk_sizes
from aggregator.records import CommitRecord, ConfigRecord, Record
from shared.topics import ModelTopic
from simulator.fleet import AGGREGATOR, Fleet
from tests.aggregator.builders import DIGEST
from tests.integration.linear import LinearTask, some_settings


def a_config(chunk_bytes: int) -> ConfigRecord:
    """Return a row of settings with this chunk size."""
    return ConfigRecord(digest=DIGEST, settings=f'{{"transfer":{{"chunk_bytes":{chunk_bytes}}}}}', from_version=1)


def a_commit(version: int) -> CommitRecord:
    """Return the row of a version."""
    return CommitRecord(version=version, round_id=version, digest=DIGEST)


@pytest.mark.parametrize(
    ("records", "now", "expected"),
    [
        ([], 7, {0: [7]}),
        ([a_config(7)], 7, {0: [7]}),
        ([a_config(7)], 8, {0: [7, 8]}),
        ([a_config(7), a_commit(1)], 7, {0: [7], 1: [7]}),
        ([a_config(7), a_commit(1), a_config(8), a_commit(2)], 8, {0: [7], 1: [7, 8], 2: [8]}),
        ([a_config(7), a_commit(1), a_config(8), a_config(7)], 7, {0: [7], 1: [8, 7]}),
    ],
)
def test_each_version_has_the_sizes_with_which_it_was_the_newest(
    records: list[Record], now: int, expected: dict[int, list[int]]
) -> None:
    """At its commit, and at each start until the next; the one that holds is last, and none is named twice."""
    assert chunk_sizes(records, now) == expected


@pytest.mark.virtual_time
async def test_chunks_of_another_size_replace_the_old_ones_on_the_broker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed, and started with larger chunks: of the versions that are kept only the new cut is retained."""
    monkeypatch.setattr("aggregator.plot.find_spec", lambda name: None)
    settings = some_settings(tmp_path, stop={"rounds": 4})
    larger = some_settings(tmp_path, stop={"rounds": 4}, transfer={"chunk_bytes": 8192})
    with capture_logs():
        async with Fleet(settings, LinearTask(padding=5000), tmp_path) as fleet:
            fleet.start_aggregator()
            for i in range(6):
                fleet.add(f"d{i}")
            await fleet.until(lambda: fleet.status is not None and fleet.status.version >= 2)
            await fleet.kill(AGGREGATOR)
            before = _first_chunks(fleet)
            fleet.start_aggregator(larger)
            result = await fleet.result()
            after = _first_chunks(fleet)
    assert result.version == 4
    assert set(before.values()) == {4096}
    assert set(after.values()) == {8192}
    assert len(after) == 3
    assert not before.keys() & after.keys()


def _first_chunks(fleet: Fleet) -> dict[str, int]:
    """Return the size of the first chunk of each model on the broker, by its digest."""
    retained = [(fleet.topics.parse(topic), payload) for topic, payload in fleet.broker.retained.items()]
    return {
        topic.digest: len(payload) for topic, payload in retained if isinstance(topic, ModelTopic) and not topic.chunk
    }
