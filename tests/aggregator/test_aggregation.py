"""Sums to versions: in the order of the journal, to the same bits however often it is tried."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray

from aggregator.aggregation import Aggregation
from aggregator.model_store import ModelStore, ServerState
from aggregator.part_files import PartFiles
from aggregator.records import AcceptRecord
from aggregator.server_algorithm import algorithm_of
from shared.blocking import Lane
from shared.chunking import ChunkLayout
from shared.errors import ConfigError, InvalidState
from shared.parameters import ParameterSpec
from shared.task import Initial
from tests.aggregator.builders import CHUNK_BYTES, an_accept, an_offer, some_settings

T = TypeVar("T")

N_PARAMS = 2000


async def at_once(lane: Lane, work: Callable[[], T]) -> T:
    """Work without threads."""
    return work()


def a_state(n_params: int = N_PARAMS) -> ServerState:
    """Return version 0: all zeros, with a buffer at the end."""
    zeros = {"w": np.zeros(n_params - 4, np.float32), "running_var": np.ones(4, np.float32)}
    initial = Initial(zeros, buffers=frozenset({"running_var"}))
    spec = ParameterSpec.of(initial)
    return ServerState(version=0, round_id=0, spec=spec, parameters=spec.flatten(initial.parameters))


def an_aggregation(folder: Path, **tables: Any) -> Aggregation:
    """Return one whose files lie in a folder."""
    part_files, store = PartFiles(folder / "updates"), ModelStore(folder / "versions")
    return Aggregation(some_settings(**tables), a_state(), part_files, store, at_once)


def a_delta(seed: int, n_params: int = N_PARAMS) -> NDArray[np.float32]:
    """Return an update whose sum depends on the order of summation."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=n_params) * 10.0 ** rng.integers(-6, 2, n_params)).astype(np.float32)


def accepted(n: int = 7, *, into: int = 1) -> list[AcceptRecord]:
    """Return so many accepted updates, inline, of different weights."""
    return [an_accept(a_delta(i), number=i, into=into, weight=float(i)) for i in range(1, n + 1)]


async def made(aggregation: Aggregation, records: list[AcceptRecord], *, into: int = 1) -> ServerState:
    """Fold and make a version."""
    for record in records:
        await aggregation.fold(record)
    return await aggregation.make(into, into, records)


async def test_version_is_the_weighted_mean_by_hand(tmp_path: Path) -> None:
    """Deltas 1 and 4 with weights 1 and 2: (1 + 8) / 3 = 3; at rate 0.5 the weights move by 1.5, the buffer by 3."""
    aggregation = an_aggregation(tmp_path, server={"optimizer": {"learning_rate": 0.5}})
    ones = np.ones(N_PARAMS, np.float32)
    state = await made(aggregation, [an_accept(ones), an_accept(4 * ones, number=2, weight=2.0)])
    assert (state.version, state.round_id) == (1, 1)
    trainable = state.spec.is_trainable
    assert np.array_equal(state.parameters[trainable], np.full(N_PARAMS - 4, 1.5, np.float32))
    assert np.array_equal(state.parameters[~trainable], np.full(4, 4.0, np.float32))


async def test_version_is_a_function_of_the_updates_in_their_order(tmp_path: Path) -> None:
    """Folded as they came, or all at the end after a restart: the same bits; in another order they may differ."""
    records = accepted()
    one = await made(an_aggregation(tmp_path / "one"), records)
    two = await an_aggregation(tmp_path / "two").make(1, 1, records)
    assert one.parameters.tobytes() == two.parameters.tobytes()
    turned = await made(an_aggregation(tmp_path / "three"), records[::-1])
    assert np.allclose(one.parameters, turned.parameters, atol=1e-5)


async def test_update_from_a_file_counts_like_one_that_came_inline(tmp_path: Path) -> None:
    """To the bit."""
    inline = accepted()
    one = await made(an_aggregation(tmp_path / "one"), inline)
    aggregation = an_aggregation(tmp_path / "two")
    files = PartFiles(tmp_path / "two" / "updates")
    stored = []
    for record in inline:
        assert record.data is not None
        files.begin(an_offer(record.data, record.lease))
        layout = ChunkLayout(len(record.data), CHUNK_BYTES)
        for index in range(len(layout)):
            files.write(record.lease, [(index, bytes(layout.cut(record.data, index)))])
        files.finish(record.lease)
        stored.append(replace(record, data=None))
    two = await made(aggregation, stored)
    assert one.parameters.tobytes() == two.parameters.tobytes()


async def test_failed_version_can_be_made_again_to_the_same_bits(tmp_path: Path) -> None:
    """The sum was used up by the first attempt: it is folded again."""
    records = accepted()
    expected = await made(an_aggregation(tmp_path / "one"), records)
    aggregation = an_aggregation(tmp_path / "two")
    for _ in range(3):
        state = await made(aggregation, records) if _ == 0 else await aggregation.make(1, 1, records)
        assert state.parameters.tobytes() == expected.parameters.tobytes()


async def test_sum_that_lacks_an_update_is_not_used(tmp_path: Path) -> None:
    """One could not be folded when it came: the version is made of all of them nevertheless."""
    records = accepted()
    expected = await made(an_aggregation(tmp_path / "one"), records)
    aggregation = an_aggregation(tmp_path / "two")
    for record in records[:3] + records[4:]:
        await aggregation.fold(record)
    state = await aggregation.make(1, 1, records)
    assert state.parameters.tobytes() == expected.parameters.tobytes()


async def test_version_that_is_not_finite_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    """The run diverges: an error that names the rates, and the old version stays."""
    aggregation = an_aggregation(tmp_path, server={"optimizer": {"learning_rate": 1e30}})
    huge = an_accept(np.full(N_PARAMS, 1e30, np.float32))
    for _ in range(2):
        with pytest.raises(ConfigError, match="learning_rate"):
            await made(aggregation, [huge])
        aggregation.forget(1)
    assert aggregation.state.version == 0


async def test_version_that_a_tiny_alpha_blew_up_names_alpha(tmp_path: Path) -> None:
    """FedDyn divides by it; no lower rate would help, and NumPy says nothing of its own."""
    aggregation = an_aggregation(tmp_path, training={"algorithm": "feddyn", "alpha": 1e-12})
    state = aggregation.state
    sums = {**algorithm_of("feddyn", alpha=1e-12).init(state.spec), "algorithm/sum": np.full(N_PARAMS - 4, 1e300)}
    aggregation.state = replace(state, optimizer=sums)
    with pytest.raises(ConfigError, match=r"raise training\.alpha, 1e-12 now, or lower server\.optimizer"):
        await made(aggregation, [an_accept(np.ones(N_PARAMS, np.float32))])


async def test_forgotten_sum_does_not_count(tmp_path: Path) -> None:
    """Voided updates leave nothing behind for those that come after."""
    aggregation = an_aggregation(tmp_path)
    for record in accepted(3):
        await aggregation.fold(record)
    aggregation.forget(1)
    aggregation.forget(1)
    again = [an_accept(a_delta(9), number=9)]
    state = await made(aggregation, again)
    alone = await made(an_aggregation(tmp_path / "alone"), again)
    assert state.parameters.tobytes() == alone.parameters.tobytes()


async def test_versions_build_on_each_other(tmp_path: Path) -> None:
    """What was written is what the next is built on, and what is on disk."""
    aggregation = an_aggregation(tmp_path)
    ones = np.ones(N_PARAMS, np.float32)
    for version in (1, 2):
        state = await made(aggregation, [an_accept(ones, number=version, into=version)], into=version)
        await aggregation.write(state)
    assert np.array_equal(aggregation.state.parameters[:-4], np.full(N_PARAMS - 4, 2.0, np.float32))
    assert ModelStore(tmp_path / "versions").load(2).parameters.tobytes() == aggregation.state.parameters.tobytes()


@pytest.mark.parametrize("name", ["fedavgm", "adagrad", "adam", "yogi"])
async def test_what_the_optimizer_keeps_survives_the_version_file(tmp_path: Path, name: str) -> None:
    """Five versions in one life, and with a restart from the file after each: the same bits, of state too."""
    tables = {"server": {"optimizer": {"name": name}}}
    whole, broken = an_aggregation(tmp_path / "one", **tables), an_aggregation(tmp_path / "two", **tables)
    for version in range(1, 6):
        records = [an_accept(a_delta(10 * version + i), number=i, into=version) for i in (1, 2, 3)]
        await whole.write(await made(whole, records, into=version))
        await broken.write(await made(broken, records, into=version))
        broken = an_aggregation(tmp_path / "two", **tables)
        broken.state = ModelStore(tmp_path / "two" / "versions").load(version)
        assert broken.state.parameters.tobytes() == whole.state.parameters.tobytes()
        kept = {key: array.tobytes() for key, array in whole.state.optimizer.items()}
        assert {key: array.tobytes() for key, array in broken.state.optimizer.items()} == kept
        assert all(array.dtype == np.float32 and array.shape == (N_PARAMS,) for array in whole.state.optimizer.values())
        assert kept


async def test_another_optimizer_from_one_start_to_the_next_begins_anew(tmp_path: Path) -> None:
    """From Adam to momentum after a version: v is the first delta since, as if there had never been another."""
    first = an_aggregation(tmp_path, server={"optimizer": {"name": "adam"}})
    await first.write(await made(first, accepted()))
    second = an_aggregation(tmp_path, server={"optimizer": {"name": "fedavgm"}})
    second.state = ModelStore(tmp_path / "versions").load(1)
    state = await made(second, accepted(into=2), into=2)
    moved = state.parameters.astype(np.float64) - second.state.parameters
    assert list(state.optimizer) == ["step/fedavgm/v"]
    assert np.allclose(state.optimizer["step/fedavgm/v"][:-4], moved[:-4], rtol=1e-5, atol=1e-6)


async def test_fedsgd_steps_at_the_clients_rate_with_its_decay(tmp_path: Path) -> None:
    """Devices send −g: at rate 0.5, halved a version, the second version moves by half as much as the first."""
    training = {"algorithm": "fedsgd", "learning_rate": 0.5, "schedule": {"name": "exponential", "factor": 0.5}}
    aggregation = an_aggregation(tmp_path, training=training)
    ones = np.ones(N_PARAMS, np.float32)
    moves = []
    for version in (1, 2):
        before = aggregation.state.parameters[0]
        state = await made(aggregation, [an_accept(ones, number=version, into=version)], into=version)
        await aggregation.write(state)
        moves.append(float(state.parameters[0] - before))
    assert moves == [0.5, 0.25]


async def test_normalised_steps_are_what_an_update_is_worth(tmp_path: Path) -> None:
    """Two updates of one: d = (1/4 + 1/1.5) / 2 by steps 4 and 1.5, times the mean of the steps, 2.75: 1.2604."""
    server = {"normalize": "steps", "weighting": "uniform"}
    aggregation = an_aggregation(tmp_path, server=server, training={"algorithm": "fedprox", "mu": 1.0})
    ones = np.ones(N_PARAMS, np.float32)
    first = replace(an_accept(ones, number=1), n_steps=4)
    second = replace(an_accept(ones, number=2), n_steps=2, effective_steps=1.5)
    before = aggregation.state.parameters[0]
    state = await made(aggregation, [first, second])
    assert state.parameters[0] - before == pytest.approx(1.2604, abs=1e-4)


async def test_update_whose_file_is_gone_is_named(tmp_path: Path) -> None:
    """Its lease stands in the error."""
    record = replace(an_accept(a_delta(1)), data=None)
    with pytest.raises(InvalidState, match=record.lease):
        await an_aggregation(tmp_path).fold(record)
