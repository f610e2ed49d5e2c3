"""The only decoder of foreign messages: msgpack with caps, both ways.

Whatever arrives is one of our messages or one `PeerError` with its reason, within microseconds and a few kilobytes:
length, major version, nesting and field types are checked before anything is built from it. Status topics alone are
JSON, so that people's tools can read them.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import msgpack
from pydantic import ValidationError

from shared.chunking import ChunkLayout, sha256_hex
from shared.errors import ConfigError, InvalidState, PeerError, Reason
from shared.messages import PROTOCOL_VERSION, ModelRef, WireMessage
from shared.parameters import MAX_ENTRIES, ParameterSpec
from shared.wire_fields import MAX_TEXT_BYTES, for_people

__all__ = ["ModelIndex", "decode", "decode_index", "decode_json", "encode", "encode_index", "encode_json"]

M = TypeVar("M", bound=WireMessage)
T = TypeVar("T")

MAX_MAP = 64
MAX_ARRAY = 64
MAX_CONTAINERS = 128
"""Maps and arrays in one message; ours have at most 34. The caps of each alone allow as many as there are bytes."""
MAX_INDEX_BYTES = 4 * 2**20
_MALFORMED = (ValueError, UnicodeDecodeError, msgpack.ExtraData, msgpack.FormatError, msgpack.StackError, TypeError)


def encode(message: WireMessage) -> bytes:
    """Return a message as a msgpack map; fields that have their default are left out.

    Raises:
        InvalidState: without `data` it is over its cap, so that every peer would refuse it.
    """
    fields = message.model_dump(mode="python", exclude_defaults=True)
    packed: bytes = msgpack.packb({"v": message.v, **fields})
    _check_own_length(message, len(packed) - len(fields.get("data", b"")))
    return packed


def decode(kind: type[M], payload: bytes, *, max_data_bytes: int = 0) -> M:
    """Return a foreign message.

    Args:
        kind: which message this topic carries.
        payload: as it arrived.
        max_data_bytes: what `data` may add to the cap of the map, in bytes.

    Raises:
        PeerError: `payload_too_large`, `malformed`, `version` or `fields`.
    """
    _check_length(kind, payload, max_data_bytes)
    return _validated(kind, _unpacked(payload, max_bin=max_data_bytes))


def encode_json(message: WireMessage) -> bytes:
    """Return a status message as JSON; only fields that are None are left out, for people's tools.

    Raises:
        InvalidState: it is over its cap.
    """
    encoded = message.model_dump_json(exclude_none=True).encode()
    _check_own_length(message, len(encoded))
    return encoded


def decode_json(kind: type[M], payload: bytes) -> M:
    """Return a foreign status message.

    Raises:
        PeerError: as for `decode`.
    """
    _check_length(kind, payload, 0)
    try:
        found = json.loads(payload.decode(), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise PeerError(Reason.MALFORMED, for_people(str(error))) from error
    return _validated(kind, found)


@dataclass(frozen=True)
class ModelIndex:
    """What a model consists of: its spec, and the sha-256 of each chunk.

    Args:
        spec: names and slices of the flat vector.
        size: bytes of the vector as little-endian float32.
        chunk_bytes: bytes a chunk.
        sha256: of the whole.
        chunks: 32 raw bytes a chunk.
    """

    spec: ParameterSpec
    size: int
    chunk_bytes: int
    sha256: str
    chunks: tuple[bytes, ...]

    @cached_property
    def layout(self) -> ChunkLayout:
        """How the model falls into chunks."""
        return ChunkLayout(self.size, self.chunk_bytes)


def encode_index(index: ModelIndex) -> bytes:
    """Return the index as bytes; their sha-256 is the model's name.

    Raises:
        ConfigError: it is over the cap of 4 MiB.
    """
    head = {
        "spec": index.spec.to_wire(),
        "size": index.size,
        "chunk_bytes": index.chunk_bytes,
        "sha256": bytes.fromhex(index.sha256),
    }
    packed: bytes = msgpack.packb(head)
    encoded = packed + b"".join(index.chunks)
    if len(encoded) > MAX_INDEX_BYTES:
        raise ConfigError(
            f"the model's index of {len(index.chunks)} chunks and {len(index.spec.entries)} parameters is over 4 MiB",
            hint="a larger transfer.chunk_bytes makes it smaller",
        )
    return encoded


def decode_index(payload: bytes, model: ModelRef) -> ModelIndex:
    """Return a foreign index, after its digest has turned out right.

    Raises:
        PeerError: `digest` when it is not the one that `model` names, else `malformed` or `fields`.
    """
    if len(payload) != model.index_bytes or sha256_hex(payload) != model.digest:
        raise PeerError(Reason.DIGEST, f"{len(payload)} bytes are not the index {model.digest[:12]}…")
    unpacker = msgpack.Unpacker(
        max_buffer_size=MAX_INDEX_BYTES,
        max_array_len=MAX_ENTRIES,
        max_map_len=8,
        max_str_len=MAX_TEXT_BYTES,
        max_bin_len=32,
        max_ext_len=0,
        object_pairs_hook=_no_duplicates,
    )
    try:
        unpacker.feed(payload)
        head = unpacker.unpack()
        tail = payload[unpacker.tell() :]
        spec = ParameterSpec.from_wire(head["spec"])
        size, chunk_bytes, whole = head["size"], head["chunk_bytes"], head["sha256"]
        if type(size) is not int or type(chunk_bytes) is not int or type(whole) is not bytes or len(whole) != 32:
            raise ValueError("size, chunk_bytes or sha256")
        if size != 4 * spec.n_params or chunk_bytes != model.chunk_bytes:
            raise ValueError(f"{size} bytes in chunks of {chunk_bytes} for {spec.n_params} parameters")
        if len(tail) != 32 * len(ChunkLayout(size, chunk_bytes)):
            raise ValueError(f"{len(tail)} bytes of chunk digests")
    except (*_MALFORMED, KeyError, msgpack.OutOfData) as error:
        raise PeerError(Reason.MALFORMED, for_people(f"index: {error}")) from error
    digests = tuple(tail[i : i + 32] for i in range(0, len(tail), 32))
    return ModelIndex(spec=spec, size=size, chunk_bytes=chunk_bytes, sha256=whole.hex(), chunks=digests)


def _check_length(kind: type[WireMessage], payload: bytes, max_data_bytes: int) -> None:
    if len(payload) > kind.max_message_bytes + max_data_bytes:
        raise PeerError(Reason.PAYLOAD_TOO_LARGE, f"{len(payload)} bytes for a {kind.__name__}")


def _check_own_length(message: WireMessage, n_bytes: int) -> None:
    if n_bytes > message.max_message_bytes:
        raise InvalidState(f"{n_bytes} bytes for a {type(message).__name__}, {message.max_message_bytes} are allowed")


def _unpacked(payload: bytes, *, max_bin: int) -> object:
    n_containers = 0

    def counted(container: T) -> T:
        nonlocal n_containers
        n_containers += 1
        if n_containers > MAX_CONTAINERS:
            raise ValueError(f"over {MAX_CONTAINERS} maps and arrays")
        return container

    try:
        found: object = msgpack.unpackb(
            payload,
            max_map_len=MAX_MAP,
            max_array_len=MAX_ARRAY,
            max_str_len=MAX_TEXT_BYTES,
            max_bin_len=max_bin,
            max_ext_len=0,
            list_hook=counted,
            object_pairs_hook=lambda pairs: counted(_no_duplicates(pairs)),
        )
    except _MALFORMED as error:
        raise PeerError(Reason.MALFORMED, for_people(f"{type(error).__name__} {error}")) from error
    return found


def _no_duplicates(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate key")
    if not {str}.issuperset(map(type, found)):
        raise ValueError("a key that is no string")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _validated(kind: type[M], found: object) -> M:
    if not isinstance(found, dict):
        raise PeerError(Reason.MALFORMED, f"a {type(found).__name__}, not a map")
    version = found.get("v")
    if type(version) is not int or version != PROTOCOL_VERSION:
        raise PeerError(Reason.VERSION, for_people(f"v is {version!r}"))
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise PeerError(Reason.FIELDS, for_people(f"{where}: {first['msg']}")) from error
