import hashlib
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from bench.undigested import Ends
from tests.test_architecture import ROOT


@given(st.lists(st.binary(max_size=100), max_size=6))
def test_digest_does_not_depend_on_how_the_data_are_divided(parts: list[bytes]) -> None:
    """A device digests a payload at once, the aggregator block by block: they agree."""
    at_once, in_parts = Ends(b"".join(parts)), Ends()
    for part in parts:
        in_parts.update(memoryview(part))
    assert in_parts.hexdigest() == at_once.hexdigest()
    assert len(in_parts.digest()) == hashlib.sha256().digest_size


def test_digest_tells_models_of_the_benchmark_apart() -> None:
    """Another first byte, another last one, or another length is another digest; what lies between is not looked at."""
    long = bytes(1000)
    others = [b"\1" + long[1:], long[:-1] + b"\1", long + b"\0"]
    assert len({Ends(data).digest() for data in (long, *others)}) == 4
    assert Ends(long[:500] + b"\1" + long[501:]).digest() == Ends(long).digest()


def test_program_runs_with_the_cheap_digest_in_place_of_sha256() -> None:
    """The named module is run as by `python -m`, with its arguments."""
    asked = [sys.executable, "-m", "bench.undigested", "timeit", "-n", "1", "-r", "1", "import hashlib"]
    plain = subprocess.run(
        [*asked, "print(type(hashlib.sha256()).__name__)"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert plain.stdout.splitlines()[0] == "Ends"
