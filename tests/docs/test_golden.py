"""The golden vectors are what this code writes and reads, and what the page for other languages says of them."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
import pytest

from shared import messages
from shared.codecs import CODECS, decode_vector
from shared.messages import ModelRef, WireMessage
from shared.wire import decode, decode_index, decode_json
from tests.docs.golden import FOLDER, OF_PLAIN, files

VECTORS: dict[str, Any] = json.loads((FOLDER / "vectors.json").read_text())
LARGEST = {"float16": 65504.0, "int8": 3e38}


def of_int8(magnitudes: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> "np.ndarray[Any, np.dtype[np.float64]]":
    """The scale of each value's block."""
    peaks = np.maximum.reduceat(np.minimum(magnitudes, 3e38), np.arange(0, len(magnitudes), 256))
    return np.repeat(peaks, 256)[: len(magnitudes)] / 126.7


BOUNDS: dict[str, Callable[..., Any]] = {
    "float32": np.zeros_like,
    "float16": lambda magnitudes: np.maximum(2**-11 * magnitudes, 2**-25),
    "int8": of_int8,
}
REGENERATE = "a change of the wire? python -m tests.docs.golden writes them anew"


def test_vectors_are_what_the_code_writes() -> None:
    """No byte on the wire changes unnoticed, and no file is left over."""
    fresh = files()
    assert {path.name for path in FOLDER.iterdir()} == fresh.keys(), REGENERATE
    assert [name for name, data in fresh.items() if (FOLDER / name).read_bytes() != data] == [], REGENERATE


@pytest.mark.parametrize("listed", VECTORS["messages"], ids=lambda listed: listed["file"])
def test_vector_decodes_to_the_fields_listed(listed: dict[str, Any]) -> None:
    """The listing, which is plain JSON, says what the bytes mean."""
    kind: type[WireMessage] = getattr(messages, listed["message"])
    payload = (FOLDER / listed["file"]).read_bytes()
    read = decode_json(kind, payload) if listed["file"].endswith("json") else decode(kind, payload, max_data_bytes=64)
    fields = read.model_dump(mode="json", exclude={"data"})
    data = read.model_dump().get("data")
    if data is not None:
        fields["data"] = {"hex": data.hex()}
    assert json.loads(json.dumps(fields)) == listed["fields"]


def test_checksums_are_those_of_the_files() -> None:
    """Whoever copies the folder can tell that it arrived whole."""
    sums = {name: hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() for name in VECTORS["sha256"]}
    assert sums == VECTORS["sha256"]


def test_model_is_put_together_as_a_device_would() -> None:
    """Index by its digest, chunks by theirs, the whole by its own, values by the spec: all from the files alone."""
    described = json.loads((FOLDER / "model.json").read_text())
    index = decode_index((FOLDER / "model-index.bin").read_bytes(), ModelRef(**described["ref"]))
    chunks = [(FOLDER / f"model-chunk-{i}.bin").read_bytes() for i in range(len(index.layout))]
    assert [hashlib.sha256(chunk).digest() for chunk in chunks] == list(index.chunks)
    assert hashlib.sha256(b"".join(chunks)).hexdigest() == index.sha256 == described["sha256"]
    assert index.spec.to_wire() == described["spec"]
    assert hashlib.sha256(msgpack.packb(described["spec"])).hexdigest() == described["spec_digest"]
    arrays = index.spec.unflatten(np.frombuffer(b"".join(chunks), "<f4"))
    assert arrays["in.weight"].shape == arrays["out.weight"].shape == (40, 30)


@pytest.mark.parametrize("name", [name for name, codec in CODECS.items() if codec.has_fixed_length])
def test_codec_output_decodes_to_its_input(name: str) -> None:
    """Within the bound that the protocol states for each."""
    file = "codec-plain.f32" if name in OF_PLAIN else "codec-input.f32"
    values = np.frombuffer((FOLDER / file).read_bytes(), "<f4").astype(np.float64)
    decoded = decode_vector(CODECS[name], (FOLDER / f"codec-{name}.bin").read_bytes(), len(values)).astype(np.float64)
    if name == "one-bit":  # along the input it is exact
        for block in (slice(0, 2048), slice(2048, None)):
            assert decoded[block] @ values[block] == pytest.approx(values[block] @ values[block], rel=1e-6)
        return
    if name == "top-1-percent":
        assert np.abs(values[decoded != 0]).min() >= np.sort(np.abs(values))[-25]
        np.testing.assert_allclose(decoded[decoded != 0], values[decoded != 0], rtol=2**-11)
        return
    error = np.abs(decoded - np.clip(values, -LARGEST.get(name, np.inf), LARGEST.get(name, np.inf)))
    assert (error <= BOUNDS[name](np.abs(values))).all()
