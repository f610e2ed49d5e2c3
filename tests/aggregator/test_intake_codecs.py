"""What no codec makes, on its way in: each is refused by name before anything of it counts, inline and from a file."""

import asyncio
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from aggregator import events as ev
from edge_client.advice import advice_for
from shared.codecs import CODECS
from shared.errors import Reason
from tests.aggregator.builders import a_report, an_offer, lease_name
from tests.aggregator.intake_desk import N_PARAMS, Desk, working
from tests.fuzz.hostile_updates import ZSTD_BOMB

pytestmark = pytest.mark.virtual_time

LENGTH, CODEC, NOT_FINITE = Reason.LENGTH, Reason.CODEC, Reason.NOT_FINITE


def sound(name: str) -> bytes:
    """Return an update as a device encodes it."""
    vector = np.random.default_rng(1).standard_normal(N_PARAMS, dtype=np.float32)
    return CODECS[name].encode(vector, 1)


def written_over(name: str, at: int, data: bytes) -> bytes:
    """Return a sound update with other bytes from a place on."""
    plain = sound(name)
    return plain[:at] + data + plain[at + len(data) :]


def bad_updates() -> Iterator[tuple[str, str, bytes, Reason, str]]:
    """Yield (codec, what is wrong, bytes, what they are refused for, what the refusal says)."""
    nan, infinite = struct.pack("<f", np.nan), struct.pack("<f", np.inf)
    for name, codec in CODECS.items():
        whole = sound(name)
        if codec.has_fixed_length:
            says = f"bytes of {name}, {len(whole)} are {N_PARAMS} values"
            yield name, "a byte less", whole[:-1], LENGTH, says
            yield name, "a byte more", whole + b"\0", LENGTH, says
            yield name, "twice", whole + whole, LENGTH, says
    yield "float16", "NaN", written_over("float16", 246, np.array(np.nan, "<f2").tobytes()), NOT_FINITE, "NaN or Inf"
    yield "int8", "a scale that is NaN", written_over("int8", 260, nan), NOT_FINITE, "NaN or Inf"
    yield "int8", "a scale that is Inf", written_over("int8", 0, infinite), NOT_FINITE, "NaN or Inf"
    yield "one-bit", "a scale that is NaN", written_over("one-bit", 8, nan), NOT_FINITE, "NaN or Inf"
    top = "top-1-percent"
    yield top, "a scale that is Inf", written_over(top, 0, infinite), NOT_FINITE, "NaN or Inf"
    yield top, "a value too many", written_over(top, 4, struct.pack("<H", 51)), CODEC, "51 values, 5000 have 50"
    yield top, "a place beyond the end", written_over(top, 6 + 98, b"\xff\xff"), CODEC, "do not grow, or are not there"
    yield top, "a place twice", written_over(top, 8, sound(top)[6:8]), CODEC, "do not grow"
    if "int8-zstd" in CODECS:
        yield "int8-zstd", "a bomb", ZSTD_BOMB, CODEC, "it has more than its 5080 bytes"
        yield "int8-zstd", "no end", sound("int8-zstd")[:-1], CODEC, "unpack"
        yield "int8-zstd", "too long", bytes(5081), LENGTH, "at most 5080 are 5000 values"


@pytest.mark.parametrize("is_inline", [True, False])
@pytest.mark.parametrize(
    ("name", "data", "reason", "says"),
    [pytest.param(name, *rest, id=f"{name}, {what}") for name, what, *rest in bad_updates()],
)
async def test_update_that_its_codec_does_not_make_is_refused_by_name(
    tmp_path: Path, name: str, data: bytes, reason: Reason, says: str, is_inline: bool
) -> None:
    """Nothing of it is verified; what comes next is; and its device is told what to change."""
    good, next_one = sound(name), lease_name(2)
    async with working(Desk(tmp_path)) as desk:
        desk.offer(a_report(data, codec=name) if is_inline else an_offer(data, codec=name))
        await desk.send(data)
        desk.offer(a_report(good, codec=name, lease=next_one))
        await asyncio.sleep(1.0)
    refused, verified = desk.told
    assert isinstance(refused, ev.Refused)
    assert refused.reason is reason
    assert says in refused.detail
    assert advice_for(reason)
    assert isinstance(verified, ev.Verified)
    assert verified.lease == next_one
