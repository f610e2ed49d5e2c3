"""Golden vectors: the bytes of every message, of a model's index, of its chunks and of each codec's output.

For whoever writes a device in another language: `tests/vectors/` holds them, `docs/clients.md` says how to read them.
`python -m tests.docs.golden` writes them anew, which only a new version of the wire may need.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from aggregator.publishing import model_blob
from shared.codecs import CODECS
from shared.messages import WireMessage
from shared.parameters import ParameterSpec
from shared.task import Initial
from shared.wire import encode, encode_json
from tests.shared.wire_examples import IN_JSON, LARGE, SMALL

__all__ = ["FOLDER", "OF_PLAIN", "files"]

FOLDER = Path(__file__).parents[1] / "vectors"
CHUNK_BYTES = 4096
SEED = 7
OF_PLAIN = frozenset({"one-bit", "top-1-percent"})
"""Codecs whose vector is made of `codec-plain.f32`; the others' is of `codec-input.f32`."""


def files() -> dict[str, bytes]:
    """Return every vector by its file's name."""
    found: dict[str, bytes] = {}
    listed: list[dict[str, Any]] = []
    for name, message in _messages():
        is_json = isinstance(message, IN_JSON)
        file = f"{name}.{'json' if is_json else 'msgpack'}"
        found[file] = encode_json(message) if is_json else encode(message)
        fields = message.model_dump(mode="json", exclude={"data"})
        if getattr(message, "data", None) is not None:
            fields["data"] = {"hex": message.model_dump()["data"].hex()}
        listed.append({"file": file, "message": type(message).__name__, "fields": fields})
    found |= _model()
    found |= _codecs()
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(found.items())}
    found["vectors.json"] = (json.dumps({"messages": listed, "sha256": sums}, indent=1) + "\n").encode()
    return found


def _messages() -> Iterator[tuple[str, WireMessage]]:
    for size, examples in (("small", SMALL), ("large", LARGE)):
        for i, message in enumerate(examples):
            yield f"{i:02d}-{type(message).__name__.lower()}-{size}", message


def _model() -> dict[str, bytes]:
    """A model of three entries: two layers of which one is tied, and a buffer, in two chunks."""
    weight = _values(40 * 30).reshape(40, 30)
    initial = Initial(
        {
            "in.weight": weight,
            "out.weight": weight,
            "scale": np.array([0.5], np.float32),
            "mean": _values(7).astype(np.float64),
        },
        buffers=frozenset({"mean"}),
    )
    spec = ParameterSpec.of(initial)
    blob = model_blob(spec.flatten(initial.parameters), spec, 3, CHUNK_BYTES)
    layout = blob.index.layout
    chunks = {f"model-chunk-{i}.bin": bytes(layout.cut(blob.data, i)) for i in range(len(layout))}
    described = {"ref": blob.ref.model_dump(), "spec": spec.to_wire(), "spec_digest": spec.digest}
    return {
        "model-index.bin": blob.index_bytes,
        **chunks,
        "model.json": (json.dumps({**described, "sha256": blob.index.sha256}, indent=1) + "\n").encode(),
    }


def _codecs() -> dict[str, bytes]:
    edges = np.array([0.0, -0.0, 1.0, -1.0, 65504.0, 1e30, -1e30, 1e-7, 3.4e38], np.float32)
    values = np.concatenate([_values(300), edges])
    plain = _values(2410)  # a huge value would be all that is left of those beside it
    encoded = {
        f"codec-{name}.bin": codec.encode(plain if name in OF_PLAIN else values, SEED)
        for name, codec in CODECS.items()
        if codec.has_fixed_length
    }
    inputs = {"codec-input.f32": values, "codec-plain.f32": plain}
    return {**{name: array.astype("<f4").tobytes() for name, array in inputs.items()}, **encoded}


def _values(n: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return values in [-1, 1) that any language can make: (i x 37 mod 101) / 50.5 - 1."""
    return ((np.arange(n) * 37 % 101) / 50.5 - 1.0).astype(np.float32)


def main() -> None:
    """Write the folder anew."""
    FOLDER.mkdir(exist_ok=True)
    fresh = files()
    for path in FOLDER.iterdir():
        if path.name not in fresh:
            path.unlink()
    for name, data in fresh.items():
        (FOLDER / name).write_bytes(data)


if __name__ == "__main__":
    main()
