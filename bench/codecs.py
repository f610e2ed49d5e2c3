"""`python -m bench.codecs`: what each codec makes of an update, and how long one core takes to encode and decode it.

Seconds are of the processor, the least of several tries, so that other work on the machine hardly shows. The
update is normally distributed, which leaves least to pack; errors are the squared error by the squared norm.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from shared.codecs import CODECS, Codec, decode_vector
from shared.parameters import Vector

__all__ = ["CodecFigures", "measure"]

N_PARAMS = 4_194_304
TRIES = 7
SEED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecFigures:
    """What was measured of one codec.

    Args:
        name: of the codec.
        n_bytes: of the encoded update.
        error: squared, by the squared norm.
        encode_s: seconds, the least.
        decode_s: seconds, the least; of the whole vector.
        blocks_s: seconds, the least; block by block, as an update is verified and folded.
    """

    name: str
    n_bytes: int
    error: float
    encode_s: float
    decode_s: float
    blocks_s: float


def measure(codec: Codec, update: Vector, *, tries: int = TRIES) -> CodecFigures:
    """Encode and decode an update several times."""
    data = codec.encode(update, SEED)
    exact = update.astype(np.float64)
    error = decode_vector(codec, data, len(update)).astype(np.float64) - exact
    return CodecFigures(
        name=codec.name,
        n_bytes=len(data),
        error=float(error @ error / (exact @ exact)),
        encode_s=_least_s(lambda: codec.encode(update, SEED), tries),
        decode_s=_least_s(lambda: decode_vector(codec, data, len(update)), tries),
        blocks_s=_least_s(lambda: sum(len(block) for _, block in codec.blocks(data, len(update))), tries),
    )


def _least_s(work: Callable[[], object], tries: int) -> float:
    took = []
    for _ in range(tries):
        started = time.process_time()
        work()
        took.append(time.process_time() - started)
    return min(took)


def main(n_params: Annotated[int, typer.Option(help="parameters of the update", min=1)] = N_PARAMS) -> None:
    """Print a table of all codecs that are installed."""
    update = np.random.default_rng(SEED).standard_normal(n_params, dtype=np.float32)
    table = Table(title=f"{n_params:,} parameters, one core, milliseconds")
    for head in ("codec", "bytes", "share", "error", "encode", "decode", "blocks"):
        table.add_column(head, justify="left" if head == "codec" else "right")
    for codec in CODECS.values():
        found = measure(codec, update)
        times = (f"{seconds * 1e3:.1f}" for seconds in (found.encode_s, found.decode_s, found.blocks_s))
        table.add_row(
            found.name, f"{found.n_bytes:,}", f"1/{4 * n_params / found.n_bytes:.2f}", f"{found.error:.2g}", *times
        )
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
