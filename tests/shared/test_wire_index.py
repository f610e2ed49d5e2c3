from typing import Any

import msgpack
import numpy as np
import pytest

from shared.chunking import ChunkLayout, sha256_hex
from shared.errors import ConfigError, PeerError, Reason
from shared.messages import ModelRef
from shared.parameters import ParameterSpec
from shared.task import Initial
from shared.wire import ModelIndex, decode_index, encode_index


def an_index(n: int = 3000, chunk_bytes: int = 4096) -> tuple[ModelIndex, bytes]:
    """The index of a model of zeros, and the model."""
    spec = ParameterSpec.of(Initial({"w": np.zeros(n - 1, np.float32), "b": np.zeros(1, np.float64)}))
    model = bytes(4 * n)
    layout = ChunkLayout(len(model), chunk_bytes)
    return (
        ModelIndex(
            spec=spec,
            size=len(model),
            chunk_bytes=chunk_bytes,
            sha256=sha256_hex(model),
            chunks=tuple(bytes.fromhex(sha256_hex(layout.cut(model, i))) for i in range(len(layout))),
        ),
        model,
    )


def named(payload: bytes, **changes: Any) -> ModelRef:
    """What a manifest says of an index."""
    fields = {"version": 1, "digest": sha256_hex(payload), "index_bytes": len(payload), "chunk_bytes": 4096}
    return ModelRef(**{**fields, **changes})


def test_an_index_survives_the_wire() -> None:
    """Spec, sizes and the digest of every chunk."""
    index, _ = an_index()
    payload = encode_index(index)
    assert decode_index(payload, named(payload)) == index
    assert len(index.layout) == len(index.chunks) == 3


def test_an_index_is_looked_at_only_when_its_digest_is_right() -> None:
    """Every prefix, a flipped bit and another length are refused as `digest`."""
    payload = encode_index(an_index()[0])
    flipped = bytes([payload[0] ^ 1]) + payload[1:]
    for other in (*(payload[:n] for n in range(len(payload))), flipped, payload + b"\0"):
        with pytest.raises(PeerError) as caught:
            decode_index(other, named(payload))
        assert caught.value.reason is Reason.DIGEST


def _head(**changes: object) -> dict[str, object]:
    index = an_index()[0]
    head = {"spec": index.spec.to_wire(), "size": 12_000, "chunk_bytes": 4096, "sha256": bytes(32)}
    return {**head, **changes}


@pytest.mark.parametrize(
    ("head", "tail"),
    [
        (_head(), 95),
        (_head(), 97),
        (_head(), 0),
        (_head(size=11_996), 96),
        (_head(size=12_000.0), 96),
        (_head(size=True), 96),
        (_head(size=-1), 96),
        (_head(chunk_bytes=8192), 64),
        (_head(chunk_bytes=0), 96),
        (_head(sha256=bytes(31)), 96),
        (_head(sha256="0" * 32), 96),
        (_head(sha256=bytes(33)), 96),
        (_head(spec=[]), 96),
        (_head(spec=None), 96),
        (_head(spec=[[["w"], [2**40], "float32", "trainable"]]), 96),
        ({"spec": []}, 96),
        ({}, 96),
        ([], 96),
        ("x", 96),
        (None, 96),
        (_head(more=[[[[]]]] * 20_000), 96),
    ],
)
def test_a_digest_that_is_right_makes_no_index_of_garbage(head: object, tail: int) -> None:
    """Each is refused, and none makes memory for what it claims."""
    payload = msgpack.packb(head) + bytes(tail)
    with pytest.raises(PeerError) as caught:
        decode_index(payload, named(payload))
    assert caught.value.reason in (Reason.MALFORMED, Reason.FIELDS)


def test_an_index_over_its_cap_is_the_operators_to_change() -> None:
    """Larger chunks make it smaller."""
    index = an_index()[0]
    many = ModelIndex(
        spec=index.spec, size=index.size, chunk_bytes=4096, sha256=index.sha256, chunks=(bytes(32),) * 2**17
    )
    with pytest.raises(ConfigError, match=r"131072 chunks .* is over 4 MiB\n  a larger transfer\.chunk_bytes"):
        encode_index(many)
