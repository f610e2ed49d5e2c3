"""The model as one flat float32 vector with names.

A `ParameterSpec` maps names to slices of the vector. Floating arrays of any dtype travel as float32 and return as they
were; two names for the same memory are tied and travel once; integer arrays do not travel.

The sign is defined here and nowhere else: `delta = trained - received`, so that `parameters + rate * delta` moves
forward; a gradient g of the loss counts as the delta -g.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigError, PeerError, Reason
from shared.task import Arrays, Initial, Trained

__all__ = ["MAX_ENTRIES", "Entry", "ParameterSpec", "Role", "Vector", "constants_of", "delta_of"]

Vector = NDArray[np.float32]

MAX_ENTRIES = 16_384
"""Of the index that names a model's parameters on the wire."""
MAX_NAME_BYTES = 256
MAX_DIMENSIONS = 32
"""What every NumPy can shape."""
MAX_PARAMETERS = 2**31
"""8 GiB as float32: whoever claims more has no model."""
_DTYPES = ("float16", "float32", "float64")


class Role(StrEnum):
    """What the server does with an entry."""

    TRAINABLE = "trainable"  # stepped by the server optimizer
    BUFFER = "buffer"  # averaged, never stepped: a running variance must not go negative
    AUXILIARY = "auxiliary"  # travels behind the model, of a device algorithm: no task sees it, no optimizer steps it


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One array of the model.

    Args:
        names: its own name, then those tied to it.
        shape: () for a scalar.
        dtype: the dtype it has in the user's hands, "float32", "float64" or "float16".
        role: what the server does with it.
        start: offset of its first value in the flat vector.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    role: Role
    start: int

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)  # of Python's integers: NumPy's would wrap around

    @property
    def slice(self) -> slice:
        """Where it lies in the flat vector."""
        return slice(self.start, self.start + self.size)

    def __str__(self) -> str:
        return f"{'='.join(self.names)} {self.dtype}{list(self.shape)} {self.role}"


# eq without slots: cached_property needs a __dict__
@dataclass(frozen=True)
class ParameterSpec:
    """Names, shapes, dtypes and roles of a model, in the order of the flat vector."""

    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, initial: Initial) -> "ParameterSpec":
        """Read the spec off a model.

        Raises:
            ConfigError: no floating array at all, a buffer that is none of the names, an entry that is no array, or
                more than can be named on the wire.
        """
        if not isinstance(getattr(initial, "parameters", None), Mapping):
            raise ConfigError("initial_parameters must return Initial(parameters) with a dict of arrays")
        unknown = set(initial.buffers) - initial.parameters.keys()
        if unknown:
            raise ConfigError(f"buffers name {sorted(unknown)}, which initial_parameters does not return")
        entries: list[Entry] = []
        seen: dict[tuple[int, tuple[int, ...], tuple[int, ...], str], int] = {}
        start = 0
        for name, array in initial.parameters.items():
            if not 0 < len(str(name).encode(errors="replace")) <= MAX_NAME_BYTES:
                raise ConfigError(f"parameter {name!r}: a name has 1 to {MAX_NAME_BYTES} bytes")
            if not isinstance(array, np.ndarray):
                raise ConfigError(f"parameter {name!r} is a {type(array).__name__}, not a numpy array")
            if array.dtype.kind in "iub":
                continue
            if not array.dtype.isnative or array.dtype.name not in _DTYPES:
                raise ConfigError(f"parameter {name!r} has dtype {array.dtype}; floats of 16, 32 or 64 bits travel")
            memory = (array.__array_interface__["data"][0], array.shape, array.strides, array.dtype.str)
            if array.size and memory in seen:
                tied = entries[seen[memory]]
                entries[seen[memory]] = Entry(
                    names=(*tied.names, name), shape=tied.shape, dtype=tied.dtype, role=tied.role, start=tied.start
                )
                continue
            seen[memory] = len(entries)
            role = Role.BUFFER if name in initial.buffers else Role.TRAINABLE
            entry = Entry(names=(name,), shape=array.shape, dtype=array.dtype.name, role=role, start=start)
            entries.append(entry)
            start += entry.size
        if not start:
            raise ConfigError("the model has no floating parameter to learn")
        if start > MAX_PARAMETERS or len(initial.parameters) > MAX_ENTRIES:
            raise ConfigError(
                f"the model has {start} parameters under {len(initial.parameters)} names",
                hint=f"at most {MAX_PARAMETERS} under {MAX_ENTRIES} names travel",
            )
        return cls(tuple(entries))

    @cached_property
    def n_params(self) -> int:
        """Length of the flat vector."""
        return self.entries[-1].start + self.entries[-1].size

    @cached_property
    def digest(self) -> str:
        """Return what two sides compare: the sha-256 of the spec as it travels."""
        return hashlib.sha256(msgpack.packb(self.to_wire())).hexdigest()

    @cached_property
    def is_trainable(self) -> NDArray[np.bool_]:
        """Mask of what the server optimizer steps: (n_params,) bool."""
        mask = np.zeros(self.n_params, dtype=np.bool_)
        for entry in self.entries:
            mask[entry.slice] = entry.role is Role.TRAINABLE
        mask.flags.writeable = False
        return mask

    @cached_property
    def is_buffer(self) -> NDArray[np.bool_]:
        """Mask of what is averaged and never stepped: (n_params,) bool."""
        mask = np.zeros(self.n_params, dtype=np.bool_)
        for entry in self.entries:
            mask[entry.slice] = entry.role is Role.BUFFER
        mask.flags.writeable = False
        return mask

    @cached_property
    def own(self) -> "ParameterSpec":
        """The task's own entries, without those that travel behind the model; `vector[: own.n_params]` is theirs."""
        entries = tuple(entry for entry in self.entries if entry.role is not Role.AUXILIARY)
        return self if len(entries) == len(self.entries) else ParameterSpec(entries)

    def with_auxiliary(self, name: str, size: int) -> "ParameterSpec":
        """Return the spec with one more flat float32 entry behind the model.

        Raises:
            ConfigError: the model has an entry of that name, or it becomes too large to travel.
        """
        if any(name in entry.names for entry in self.entries):
            raise ConfigError(f"parameter {name!r}: that name is taken", hint="rename it in the model")
        if self.n_params + size > MAX_PARAMETERS or len(self.entries) + 1 > MAX_ENTRIES:
            raise ConfigError(
                f"the model has {self.n_params} parameters, and {size} more are to travel with it",
                hint=f"at most {MAX_PARAMETERS} under {MAX_ENTRIES} names travel",
            )
        more = Entry(names=(name,), shape=(size,), dtype="float32", role=Role.AUXILIARY, start=self.n_params)
        return ParameterSpec((*self.entries, more))

    def named_trainables(self, values: Vector) -> dict[str, Vector]:
        """Return what belongs to each trainable entry, by its names, in its shape, as float32: views.

        Args:
            values: (n_trainable,) float32, in the order of the flat vector.
        """
        arrays: dict[str, Vector] = {}
        start = 0
        for entry in self.entries:
            if entry.role is Role.TRAINABLE:
                arrays.update(dict.fromkeys(entry.names, values[start : start + entry.size].reshape(entry.shape)))
                start += entry.size
        return arrays

    def flatten(self, arrays: Arrays) -> Vector:
        """Return the arrays as one new vector: (n_params,) float32.

        Raises:
            PeerError: a name is missing, or a shape differs (`result`).
        """
        vector = np.empty(self.n_params, dtype=np.float32)
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf and is refused as not finite
            for entry, array in self._matched(arrays):
                vector[entry.slice] = array.ravel()
        return vector

    def _matched(self, arrays: Arrays) -> Iterator[tuple[Entry, NDArray[Any]]]:
        if not isinstance(arrays, Mapping):
            raise PeerError(Reason.RESULT, f"a {type(arrays).__name__} instead of a dict of arrays")
        for entry in self.entries:
            found = next((arrays[name] for name in entry.names if name in arrays), None)
            if found is None:
                raise PeerError(Reason.RESULT, f"{entry.names[0]!r} is missing")
            try:
                array = np.asarray(found)
            except (TypeError, ValueError, RuntimeError) as error:
                raise PeerError(Reason.RESULT, f"{entry.names[0]!r} is no array: {error}") from error
            if array.shape != entry.shape or array.dtype.kind not in "fiub":
                raise PeerError(
                    Reason.RESULT, f"{entry.names[0]!r} is {array.dtype}{list(array.shape)}, expected {entry}"
                )
            yield entry, array

    def unflatten(self, vector: Vector) -> dict[str, NDArray[Any]]:
        """Return named arrays of their own shape and dtype; tied names share one array.

        The arrays are copies: what a task does to them stays with the task.

        Args:
            vector: (n_params,) float32.
        """
        arrays: dict[str, NDArray[Any]] = {}
        with np.errstate(over="ignore"):
            for entry in self.entries:
                array = vector[entry.slice].reshape(entry.shape).astype(entry.dtype)
                arrays.update(dict.fromkeys(entry.names, array))
        return arrays

    def difference(self, other: "ParameterSpec") -> str:
        """Return the first parameter in which two specs differ, in words; "" when they are equal."""
        for ours, theirs in zip(self.entries, other.entries, strict=False):
            if ours != theirs:
                return f"{ours} here, {theirs} there"
        if len(self.entries) == len(other.entries):
            return ""
        longer = max(self.entries, other.entries, key=len)
        where = "here" if longer is self.entries else "there"
        return f"{longer[min(len(self.entries), len(other.entries))]} only {where}"

    def to_wire(self) -> list[list[Any]]:
        """Return one [names, shape, dtype, role] an entry; offsets follow from the order."""
        return [[list(e.names), list(e.shape), e.dtype, str(e.role)] for e in self.entries]

    @classmethod
    def from_wire(cls, rows: object) -> "ParameterSpec":
        """Read what `to_wire` wrote.

        Raises:
            PeerError: it is not of that form (`fields`).
        """
        entries: list[Entry] = []
        seen: set[str] = set()
        start = 0
        try:
            if type(rows) is not list or not 0 < len(rows) <= MAX_ENTRIES:
                raise ValueError(f"not a list of 1 to {MAX_ENTRIES} entries")
            for row in rows:
                entry = _entry_of(row, start)
                seen.update(entry.names)
                entries.append(entry)
                start += entry.size
                if start > MAX_PARAMETERS:
                    raise ValueError(f"over {MAX_PARAMETERS} parameters")
            if not start:
                raise ValueError("no values")
            roles = [entry.role is Role.AUXILIARY for entry in entries]
            if roles != sorted(roles) or all(entry.size == 0 for entry in entries if entry.role is not Role.AUXILIARY):
                raise ValueError("auxiliary entries come behind those of the model")
            if len(seen) != sum(len(entry.names) for entry in entries):
                raise ValueError("a name twice")
        except (TypeError, ValueError) as error:
            raise PeerError(Reason.FIELDS, f"spec: {error}") from error
        return cls(tuple(entries))


def _entry_of(row: object, start: int) -> Entry:
    if type(row) is not list or len(row) != 4:
        raise ValueError("an entry is [names, shape, dtype, role]")
    names, shape, dtype, role = row
    if type(names) is not list or not names or not all(type(n) is str and 0 < len(n) <= MAX_NAME_BYTES for n in names):
        raise ValueError("names")
    if type(shape) is not list or len(shape) > MAX_DIMENSIONS:
        raise ValueError("shape")
    if not all(type(n) is int and 0 <= n <= MAX_PARAMETERS for n in shape):
        raise ValueError("shape")
    if dtype not in _DTYPES:
        raise ValueError("dtype")
    return Entry(names=tuple(names), shape=tuple(shape), dtype=dtype, role=Role(role), start=start)


def constants_of(initial: Initial) -> Mapping[str, NDArray[Any]]:
    """Return the integer arrays of a model: they stay the server's and are written beside it."""
    return {name: array for name, array in initial.parameters.items() if array.dtype.kind in "iub"}


def delta_of(trained: Trained, received: Vector, spec: ParameterSpec) -> Vector:
    """Return what a client's work adds to the model: (n_params,) float32, finite.

    For parameters: trained - received, each in the dtype the task has them in, so that the rounding of the received
    model to float16 is no part of the delta. For a gradient: -gradient in the trainables; entries it does not name,
    such as buffers, do not move.

    Args:
        trained: what the task returned.
        received: (n_params,) float32, what it was given.
        spec: of the model.

    Raises:
        PeerError: a name or shape is wrong, neither or both of parameters and gradient are given, or
            `num_examples` is below 1 (`result`); a value is NaN or Inf (`not_finite`).
    """
    if not isinstance(trained, Trained):
        raise PeerError(Reason.RESULT, f"train returned {type(trained).__name__}, not a Trained")
    if type(trained.num_examples) is not int or trained.num_examples < 1:
        raise PeerError(Reason.RESULT, f"num_examples is {trained.num_examples!r}, it must be an int of at least 1")
    # NaN and Inf are found below, in the result
    with np.errstate(over="ignore", invalid="ignore"):
        match trained.parameters, trained.gradient:
            case parameters, None if parameters is not None:
                delta = np.empty(spec.n_params, dtype=np.float32)
                for entry, array in spec._matched(parameters):
                    wide = np.promote_types(entry.dtype, np.float32)
                    given = received[entry.slice].astype(entry.dtype, copy=False).astype(wide, copy=False)
                    np.subtract(array.ravel(), given, out=delta[entry.slice], casting="same_kind")
            case None, gradient if gradient is not None:
                still = {
                    e.names[0]: np.zeros(e.shape, np.float32) for e in spec.entries if e.role is not Role.TRAINABLE
                }
                delta = spec.flatten({**still, **gradient})
                np.negative(delta, out=delta)
            case _:
                raise PeerError(Reason.RESULT, "a task returns exactly one of parameters and gradient")
        # one pass: a NaN or Inf anywhere makes the sum of squares not finite
        is_suspect = not np.isfinite(np.dot(delta, delta))
    if is_suspect and not np.isfinite(delta).all():
        name = next(e.names[0] for e in spec.entries if not np.isfinite(delta[e.slice]).all())
        raise PeerError(Reason.NOT_FINITE, f"{name!r} has NaN or Inf after training")
    return delta
