"""The model is made again from the rows, and any other is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aggregator.aggregation import Aggregation
from aggregator.config import Settings
from aggregator.model_store import ModelStore, ServerState
from aggregator.part_files import PartFiles
from aggregator.publishing import model_blob
from aggregator.records import AcceptRecord
from shared.blocking import Threads
from shared.parameters import ParameterSpec
from simulator.torture_model import differences, numbers_of
from simulator.torture_plan import CHUNK_BYTES, Scale, aggregator_settings, plan_run
from simulator.torture_task import CountingTask, sha256_of, vector_of, weight_of
from tests.simulator.torture_story import N_PARAMS, NUMBERS, Story, a_story, an_accept, lease

SPEC = ParameterSpec.of(CountingTask(N_PARAMS).initial_parameters(0))


async def _made_by_the_aggregator(folder: Path) -> ServerState:
    """Version 1 as the real rule, optimizer and store make it, from the updates of the story in their order."""
    settings = Settings.model_validate(
        aggregator_settings(plan_run(1, 0, Scale()), Scale(), url="mqtt://127.0.0.1:1", folder=folder, inline_bytes=99)
    )
    store = ModelStore(folder / "versions")
    first = ServerState(version=0, round_id=0, spec=SPEC, parameters=np.zeros(N_PARAMS, dtype=np.float32))
    store.save(first)
    records = [
        AcceptRecord(
            **{**an_accept(number, device), "lease": lease(device), "round_id": 1, "n_steps": 1, "codec": "float32"},
            size=4 * N_PARAMS,
            data=vector_of(number, N_PARAMS).tobytes(),
        )
        for device, number in enumerate(NUMBERS[:3], start=1)
    ]
    with Threads() as run_blocking:
        aggregation = Aggregation(settings, first, PartFiles(folder / "updates"), store, run_blocking)
        for record in records:
            await aggregation.fold(record)
        made = await aggregation.make(1, 1, records)
        await aggregation.write(made)
    return made


@pytest.fixture
async def story(tmp_path: Path) -> Story:
    """A story whose version 1 was committed, with its files."""
    story, made = a_story(), await _made_by_the_aggregator(tmp_path)
    story.add("commit", None, version=1, digest=model_blob(made.parameters, SPEC, 1, CHUNK_BYTES).ref.digest)
    return story


def _differences(story: Story, folder: Path) -> list[str]:
    return differences(story.rows, numbers_of(story.notes), folder / "versions", N_PARAMS)


def test_model_of_the_real_aggregation_is_the_one_that_the_rows_yield(story: Story, tmp_path: Path) -> None:
    """To the bit, though it is summed up in another order."""
    assert _differences(story, tmp_path) == []


def _left_out(story: Story) -> None:
    story.drop(6)


def _twice(story: Story) -> None:
    story.add("accept", lease(9), **an_accept(NUMBERS[0], 1))


def _another_weight(story: Story) -> None:
    story.change(5, weight=2.5)


def _late_in_full(story: Story) -> None:
    story.change(5, into=2)


def _unknown(story: Story) -> None:
    story.change(5, sha256="0" * 64)


def _wrong_note(story: Story) -> None:
    story.notes = [replace(note, number=5) if note.number == NUMBERS[0] else note for note in story.notes]


def _skipped(story: Story) -> None:
    story.change(len(story.rows), version=2)


def _of_nothing(story: Story) -> None:
    story.rows = [row for row in story.rows if row.kind != "accept"]


@pytest.mark.parametrize(
    ("doctor", "complaint"),
    [
        (_left_out, "version 1 is not what the accepted updates yield"),
        (_twice, "version 1 is not what the accepted updates yield"),
        (_another_weight, "weight 2.5"),
        (_late_in_full, "discount 1.0; it is 1 versions late"),
        (_unknown, "which no device has trained"),
        (_wrong_note, "not that of the number that its device wrote down"),
        (_skipped, "commits version 2 after version 0"),
        (_of_nothing, "for which nothing was accepted"),
    ],
)
def test_any_other_model_is_refused(
    story: Story, tmp_path: Path, doctor: Callable[[Story], None], complaint: str
) -> None:
    """One update more or less, or another weight, changes the bits."""
    doctor(story)
    assert any(complaint in found for found in _differences(story, tmp_path)), _differences(story, tmp_path)


def test_one_bit_of_a_version_file_is_seen(story: Story, tmp_path: Path) -> None:
    """The file is compared, not only its digest in the row."""
    store = ModelStore(tmp_path / "versions")
    state = store.load(1)
    changed = state.parameters.copy()
    changed[3] = np.nextafter(changed[3], np.float32(np.inf))
    store.save(ServerState(version=1, round_id=1, spec=SPEC, parameters=changed))
    assert _differences(story, tmp_path) == ["00000001.safetensors is not what the accepted updates yield"]


def test_sums_are_exact_in_any_order() -> None:
    """Whole numbers below 2^16 with weights up to 8: float64 rounds none of their sums, in whatever order."""
    vectors = [weight_of(n) * vector_of(n, 64).astype(np.float64) for n in range(500)]
    forward, backward = np.zeros(64), np.zeros(64)
    for vector, rotcev in zip(vectors, reversed(vectors), strict=True):
        forward += vector
        backward += rotcev
    assert forward.tobytes() == backward.tobytes()
    assert len({sha256_of(n, N_PARAMS) for n in range(500)}) == 500
