"""The model that a journal's rows must yield, made again by other means: bit for bit, version for version.

The bytes of an update are not needed: its sha-256 in the row leads to the number that its device wrote down, and the
number to every value (`torture_task.py`); a late one counts half. The sum is exact, so it is made in another order than
the aggregator's, and an update that was left out or counted twice shows in every bit.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from aggregator.publishing import model_blob
from shared.parameters import ParameterSpec, Vector
from simulator.torture_checks import Row
from simulator.torture_notes import Note, What
from simulator.torture_plan import CHUNK_BYTES, LEARNING_RATE
from simulator.torture_task import CountingTask, vector_of, weight_of

__all__ = ["differences", "numbers_of"]


def numbers_of(notes: Iterable[Note]) -> dict[str, int]:
    """Return the number of each update that was trained, by its sha-256."""
    return {note.sha256: note.number for note in notes if note.what is What.TRAINED}


def differences(rows: Sequence[Row], numbers: Mapping[str, int], versions: Path, n_params: int) -> list[str]:
    """Return in which versions the aggregator's model is not what the journal yields; [] when in none.

    Args:
        rows: of the journal, in order.
        numbers: of updates, by sha-256.
        versions: folder of the version files; those that are still there are compared, of all others their digests.
        n_params: of the model.
    """
    found: list[str] = []
    spec = ParameterSpec.of(CountingTask(n_params).initial_parameters(0))
    model: Vector = np.zeros(n_params, dtype=np.float32)
    sums = _sums(rows, numbers, n_params, found)
    found += _of_file(versions, 0, model)
    committed = [row for row in rows if row.kind == "commit"]
    for number, row in enumerate(committed, start=1):
        version = row.body["version"]
        if version != number:
            found.append(f"row {row.seq} commits version {version} after version {number - 1}")
            break
        total, weight = sums.get(version, (np.zeros(n_params), 0.0))
        if not weight:
            found.append(f"row {row.seq} commits version {version}, for which nothing was accepted")
            break
        model = (total / weight * LEARNING_RATE + model).astype(np.float32)
        if model_blob(model, spec, version, CHUNK_BYTES).ref.digest != row.body["digest"]:
            found.append(f"row {row.seq}: version {version} is not what the accepted updates yield")
        found += _of_file(versions, version, model)
    return found


def _sums(
    rows: Sequence[Row], numbers: Mapping[str, int], n_params: int, found: list[str]
) -> dict[int, tuple[NDArray[np.float64], float]]:
    """Return Σ weight x update and Σ weight of each version; what cannot be added is named in `found`."""
    by_version: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        if row.kind == "accept":
            by_version[row.body["into"]].append({**row.body, "seq": row.seq, "data": row.data})
    sums = {}
    for version, accepts in by_version.items():
        total, weight = np.zeros(n_params), 0.0
        for accept in sorted(accepts, key=lambda accept: accept["sha256"]):  # any order but the aggregator's
            number = numbers.get(accept["sha256"])
            if number is None:
                found.append(f"row {accept['seq']} accepts {accept['sha256']}, which no device has trained")
                continue
            vector = vector_of(number, n_params)
            for contradiction in _contradictions(accept, number, vector):
                found.append(f"row {accept['seq']}: {contradiction}")
            total += accept["discount"] * weight_of(number) * vector.astype(np.float64)
            weight += weight_of(number)
        sums[version] = (total, weight)
    return sums


def _contradictions(accept: Mapping[str, Any], number: int, vector: Vector) -> Iterator[str]:
    if (accept["num_examples"], accept["weight"], accept["clip_scale"]) != (weight_of(number), weight_of(number), 1.0):
        weight, scale = accept["weight"], accept["clip_scale"]
        yield f"weight {weight}, clip scale {scale}; it is {weight_of(number)} examples, unclipped"
    late = accept["into"] - 1 - accept["base_version"]
    if accept["discount"] != 1 / (1 + late):
        yield f"discount {accept['discount']}; it is {late} versions late"
    if hashlib.sha256(vector.tobytes()).hexdigest() != accept["sha256"]:
        yield "its sha256 is not that of the number that its device wrote down"


def _of_file(versions: Path, version: int, model: Vector) -> list[str]:
    path = versions / f"{version:08d}.safetensors"
    if not path.exists() or load_file(path)["parameters"].tobytes() == model.tobytes():
        return []
    return [f"{path.name} is not what the accepted updates yield"]
