"""Version files: everything the server knows at one commit, as one frozen value, written at once or not at all.

A version file is safetensors: the flat parameters, the state of optimizer and algorithm, the integer arrays that
never travel, and as metadata the spec and the counters, all under one checksum. It is written under another name,
synchronised, renamed, and the folder synchronised: a version that can be seen is whole.

What a user gets is another file (`export`): names as in a `state_dict`, every tied name, dtypes as they were.

Not here: when a version is written or deleted (`round_machine.py`), the way to a device (`publishing.py`).
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import safetensors
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from shared.durable import sync_folder
from shared.errors import ConfigError, PeerError
from shared.parameters import ParameterSpec, Vector
from shared.task import Arrays

__all__ = ["Counters", "ModelStore", "ServerState", "export", "warm_start"]

Counters: TypeAlias = Mapping[str, int | float | str | None]
"""Evaluation and stopping counters, as the round machine keeps them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerState:
    """The server at one version.

    Args:
        version: commits so far.
        round_id: of the round that made it, 0 for the first model.
        spec: of `parameters`.
        parameters: (n_params,) float32, the task's own, and behind them what a device algorithm lets travel.
        optimizer: state of server optimizer and algorithm, by name.
        constants: the model's integer arrays.
        counters: of evaluation and stopping.
    """

    version: int
    round_id: int
    spec: ParameterSpec
    parameters: Vector
    optimizer: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    constants: Arrays = field(default_factory=dict)
    counters: Counters = field(default_factory=dict)

    @property
    def model(self) -> tuple[Vector, ParameterSpec]:
        """The task's own parameters with their spec, without what a device algorithm lets travel behind them."""
        spec = self.spec.own
        return self.parameters[: spec.n_params], spec


class ModelStore:
    """The version files of a run. Blocks: to be used in the lane DISK.

    Args:
        folder: created when missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, version: int) -> Path:
        """Return where a version lies, or would."""
        return self.folder / f"{version:08d}.safetensors"

    def versions(self) -> list[int]:
        """Return the versions on disk in ascending order."""
        return sorted(int(path.stem) for path in self.folder.glob(f"{'[0-9]' * 8}.safetensors"))

    def save(self, state: ServerState) -> Path:
        """Write a version; when this returns, it is durable. Writing it again gives the same tensors."""
        head = json.dumps(
            {
                "version": state.version,
                "round": state.round_id,
                "spec": state.spec.to_wire(),
                "counters": dict(state.counters),
            }
        )
        tensors: dict[str, NDArray[Any]] = {"parameters": state.parameters}
        tensors |= {f"optimizer/{name}": array for name, array in state.optimizer.items()}
        tensors |= {f"constants/{name}": array for name, array in state.constants.items()}
        path = self.path(state.version)
        _write(path, tensors, {"fedmq": head, "sha256": _checksum(head, tensors)})
        return path

    def load(self, version: int) -> ServerState:
        """Read a version back.

        Raises:
            ConfigError: it is missing or damaged.
        """
        path = self.path(version)
        hint = f"versions in {self.folder}: {', '.join(map(str, self.versions())) or 'none'}"
        try:
            with safetensors.safe_open(path, framework="np") as file:
                metadata: dict[str, str] = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
            head = metadata["fedmq"]
            found = json.loads(head)
            if _checksum(head, tensors) != metadata["sha256"] or found["version"] != version:
                raise ConfigError("the version file is damaged: its checksum is wrong", where=str(path), hint=hint)
            spec = ParameterSpec.from_wire(found["spec"])
        except FileNotFoundError as error:
            raise ConfigError("there is no such version", where=str(path), hint=hint) from error
        except (OSError, safetensors.SafetensorError, KeyError, ValueError, PeerError) as error:
            raise ConfigError(f"not a version file that can be read: {error}", where=str(path), hint=hint) from error
        return ServerState(
            version=found["version"],
            round_id=found["round"],
            spec=spec,
            parameters=tensors["parameters"],
            optimizer=_under("optimizer/", tensors),
            constants=_under("constants/", tensors),
            counters=found["counters"],
        )

    def delete_all_but(self, keep: Iterable[int]) -> list[int]:
        """Delete every version that is not to be kept; return those deleted."""
        gone = sorted(set(self.versions()) - set(keep))
        for version in gone:
            self.path(version).unlink(missing_ok=True)
        return gone


def export(state: ServerState, path: Path) -> None:
    """Write a model for its user: `net.load_state_dict(load_file(path))` works.

    Names are those of the state_dict, tied ones each, integer arrays included, floats of the dtype they had. Equal
    models give equal files: which version it is does not stand in it.

    Args:
        state: any version.
        path: replaced in one step when it exists.
    """
    parameters, spec = state.model
    tensors = {**spec.unflatten(parameters), **state.constants}
    _write(path, tensors, {"format": "pt"})  # safetensors writes more than one key in any order


def warm_start(path: Path, spec: ParameterSpec, constants: Arrays) -> tuple[Vector, dict[str, NDArray[Any]]]:
    """Read the first model from a user's safetensors file.

    Args:
        path: names as in the model's state_dict; of tied names one is enough.
        spec: of the model.
        constants: its integer arrays; the file's replace them, those it lacks stay.

    Returns:
        (n_params,) float32, and the integer arrays.

    Raises:
        ConfigError: the file cannot be read, or a parameter is missing, unknown, of another shape, or not finite.
    """

    def refuse(what: str) -> ConfigError:
        return ConfigError(what, where=f"server.init_from {path}", hint="the names and shapes must be the task's own")

    try:
        arrays = _load_any(path)
    except (OSError, safetensors.SafetensorError, KeyError, ValueError) as error:
        raise refuse(f"not a safetensors file that can be read: {error}") from error
    shapes = {name: entry.shape for entry in spec.entries for name in entry.names}
    shapes |= {name: array.shape for name, array in constants.items()}
    for name, array in arrays.items():
        if name not in shapes:
            raise refuse(f"the model has no parameter {name!r}")
        if array.shape != shapes[name]:
            raise refuse(f"parameter {name!r} has shape {list(array.shape)}, the model's has {list(shapes[name])}")
    try:
        vector = spec.flatten(arrays)
    except PeerError as error:
        raise refuse(f"parameter {error.detail}") from error
    for entry in spec.entries:
        if not np.isfinite(vector[entry.slice]).all():
            raise refuse(f"parameter {entry.names[0]!r} has NaN or Inf")
    return vector, {name: arrays.get(name, array).astype(array.dtype) for name, array in constants.items()}


def _load_any(path: Path) -> dict[str, NDArray[Any]]:
    """Load a safetensors file, bfloat16 included, which NumPy does not know: as the float32 of the same value."""
    try:
        arrays: dict[str, NDArray[Any]] = load_file(path)
        return arrays
    except (KeyError, TypeError, safetensors.SafetensorError):
        arrays = {}
        for name, tensor in safetensors.deserialize(path.read_bytes()):  # type: ignore[no-untyped-call]
            if tensor["dtype"] == "BF16":
                halves = np.frombuffer(tensor["data"], "<u2").astype("<u4")
                array: NDArray[Any] = (halves << 16).view("<f4")
            else:
                array = np.frombuffer(tensor["data"], _DTYPES[tensor["dtype"]])
            arrays[name] = array.reshape(tensor["shape"])
        return arrays


_DTYPES = {
    **{f"{kind}{8 * size}": f"<{kind.lower()}{size}" for kind in "IU" for size in (1, 2, 4, 8)},
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
    "BOOL": "?",
}


def _write(path: Path, tensors: Arrays, metadata: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.tmp")
    # safetensors reads the memory as it lies; asarray, unlike ascontiguousarray, leaves a scalar a scalar
    arrays = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    try:
        save_file(arrays, beside, metadata=metadata)
    except safetensors.SafetensorError as error:  # of a disk that takes no more it raises no OSError
        raise OSError(f"{beside} cannot be written: {error}") from error
    beside.chmod(0o644)  # safetensors makes it for its owner alone
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    beside.replace(path)
    sync_folder(path.parent)


def _checksum(head: str, tensors: Arrays) -> str:
    digest = hashlib.sha256(head.encode())
    for name in sorted(tensors):
        array = np.asarray(tensors[name], order="C")
        digest.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _under(prefix: str, tensors: Arrays) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}
