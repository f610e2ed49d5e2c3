"""One round, several codecs: each device by its link, and the model is the weighted mean of all that they sent."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.journal import read_journal
from aggregator.model_store import ModelStore
from aggregator.records import AcceptRecord, ConfigRecord, EpochRecord, LeaseRecord, Record
from shared.codecs import CODECS, decode_vector
from shared.messages import Kind
from shared.task import Arrays, Client, Evaluated, Initial, Trained, Work
from tests.simulator.runs.fleets import a_scenario, simulated

N_PARAMS = 60_000  # int8: 60,940 bytes, 7.6 s over the thin links; one bit: a second
N_THIN, N_WIDE = 8, 16
ROUNDS = 4


class WideTask:
    """Every device moves the model towards a place of its own, and has another number of examples."""

    def initial_parameters(self, seed: int) -> Initial:
        return Initial({"w": np.zeros(N_PARAMS, np.float32)})

    def train(self, parameters: Arrays, work: Work, client: Client) -> Trained:
        work.progress(1, 1)
        place = np.random.default_rng(list(client.id.encode())).normal(size=N_PARAMS).astype(np.float32)
        learned = parameters["w"] + np.float32(0.5) * (place - parameters["w"])
        return Trained(parameters={"w": learned}, num_examples=12 if place[0] > 0 else 5, n_steps=1)

    def evaluate(self, parameters: Arrays, client: Client | None, state: Arrays) -> Evaluated:
        return Evaluated(num_examples=1, metrics={"loss": float(np.mean(parameters["w"] ** 2))})


def a_fleet(**changes: Any) -> Any:
    """Return thin and wide links, a round that waits for all, and updates that stay in the journal."""
    link = {"latency_s": 0.05, "down_bytes_per_s": 10_000_000}
    run = {
        "training": {"codec": "auto"},
        "round": {
            "report_goal": N_THIN + N_WIDE,
            "over_selection": 1.0,
            "quorum": 1.0,
            "window_s": {"min": 5, "max": 20},
        },
        "stop": {"rounds": ROUNDS},
        "transfer": {"inline_bytes": 65_536, "check_in_interval_s": 5, "reconnect_window_s": 1},
    }
    devices = {
        "thin": {"count": N_THIN, "link": {**link, "up_bytes_per_s": 8_000}},
        "wide": {"count": N_WIDE, "link": {**link, "up_bytes_per_s": 10_000_000}},
    }
    return a_scenario(seed=5, virtual_limit_s=600, devices=devices, run=run, **changes)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of such a run, whose aggregator was started anew in its third round."""
    folder = tmp_path_factory.mktemp("mixed")
    scenario = a_fleet(faults=[{"kind": "aggregator_restart", "at_s": 13.6}])
    came, _ = simulated(scenario, folder, task=WideTask())
    assert came.result is not None
    assert came.result.version == ROUNDS
    return folder / "r"


def of_kind(folder: Path, *kinds: type[Record]) -> Iterator[Record]:
    """Yield the rows of some kinds, oldest first."""
    return (record for record in read_journal(folder / "journal.sqlite") if isinstance(record, kinds))


def leased(folder: Path) -> dict[int, dict[str, str]]:
    """Return round -> device -> codec, of the first lease."""
    found: dict[int, dict[str, str]] = defaultdict(dict)
    for record in of_kind(folder, LeaseRecord):
        if isinstance(record, LeaseRecord) and record.kind is Kind.TRAIN:
            found[record.round_id].setdefault(record.device, record.codec)
    return found


def test_round_begins_with_int8_for_all_and_mixes_once_links_are_known(run_folder: Path) -> None:
    """Nothing is known at first; then thin links, and they alone, send one bit a value."""
    rounds = leased(run_folder)
    assert set(rounds[1].values()) == {"int8"}
    assert len(rounds) >= ROUNDS
    for codecs in [rounds[round_id] for round_id in rounds if round_id > 1]:
        assert {codec for device, codec in codecs.items() if device.startswith("thin")} == {"one-bit"}
        assert {codec for device, codec in codecs.items() if device.startswith("wide")} == {"int8"}


def test_choice_goes_on_after_a_restart(run_folder: Path) -> None:
    """The links are in the journal: leases that the second start gave are as those before."""
    n_starts, after = 0, set[tuple[str, str]]()
    for record in of_kind(run_folder, EpochRecord, ConfigRecord, LeaseRecord):
        n_starts += isinstance(record, EpochRecord)
        if isinstance(record, LeaseRecord) and n_starts == 2:
            after.add((record.device.partition("-")[0], record.codec))
    assert n_starts == 2
    assert after == {("thin", "one-bit"), ("wide", "int8")}


def test_update_is_as_long_as_the_codec_of_its_lease_says(run_folder: Path) -> None:
    """And no longer was promised to the disk."""
    leases = {record.lease: record for record in of_kind(run_folder, LeaseRecord) if isinstance(record, LeaseRecord)}
    accepted = [record for record in of_kind(run_folder, AcceptRecord) if isinstance(record, AcceptRecord)]
    assert len(accepted) == ROUNDS * (N_THIN + N_WIDE)
    for record in accepted:
        lease = leases[record.lease]
        assert record.codec == lease.codec
        assert record.size == lease.max_bytes == CODECS[record.codec].encoded_bytes(N_PARAMS)


def test_version_is_the_weighted_mean_of_all_codecs(run_folder: Path) -> None:
    """Each update counts by its examples, whatever it was encoded with: recomputed from the journal in float64."""
    store = ModelStore(run_folder / "versions")
    total, weights, codecs = np.zeros(N_PARAMS), 0.0, set()
    for record in of_kind(run_folder, AcceptRecord):
        if isinstance(record, AcceptRecord) and record.into == ROUNDS:
            assert record.data is not None
            total += record.weight * decode_vector(CODECS[record.codec], record.data, N_PARAMS).astype(np.float64)
            weights += record.weight
            codecs.add(record.codec)
    assert codecs == {"int8", "one-bit"}
    expected = store.load(ROUNDS - 1).parameters + total / weights
    np.testing.assert_allclose(store.load(ROUNDS).parameters, expected, rtol=0, atol=1e-6)
