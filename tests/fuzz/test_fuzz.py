"""The fuzzer in short: nothing breaks, every reason is met, and what is broken on purpose is found and replayed."""

import json
import os
import subprocess
import sys
from array import array
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from aggregator import admission
from aggregator.folding import verify
from shared.codecs import CODECS
from shared.errors import OWN_RULES, Reason
from tests.fuzz import __main__ as command
from tests.fuzz import running
from tests.fuzz.__main__ import app, misses
from tests.fuzz.running import Found, fuzz
from tests.fuzz.upward import RULES

ROOT = Path(__file__).parents[2]
N = 20_000
NOT_BY_A_PAYLOAD = frozenset(
    {
        *(Reason.RUN_FINISHED, Reason.MODEL_GONE, Reason.OPERATOR, Reason.DISK, Reason.DEVICE_RESTARTED, Reason.PAUSED),
        Reason.QUOTA,  # none is set
    }
)
"""What only the aggregator's own troubles, its operator or the end of the run bring about."""
NEEDS_A_LEASE_TO_EXPIRE = frozenset({Reason.ALREADY_COUNTED, Reason.SUPERSEDED})
"""What is rare among so few payloads; a million have them all."""
IN_ANSWER_TO_A_CHECK_IN = OWN_RULES | {
    *(Reason.NOT_DRAWN, Reason.SPEC, Reason.PROTOCOL, Reason.CODEC, Reason.CLONED_ID, Reason.DATA),
}
NOT_AMONG_THE_REFUSED = NOT_BY_A_PAYLOAD | NEEDS_A_LEASE_TO_EXPIRE | IN_ANSWER_TO_A_CHECK_IN - {Reason.CODEC}
OF_A_DEVICE = ("topic", "malformed", "version", "fields", "payload_too_large")


@pytest.mark.timeout(120)
def test_hostile_payloads_break_nothing_and_meet_every_reason() -> None:
    """No exception, no bound broken; whatever a device can be refused for, one was; the device went on working."""
    found = fuzz(N, seed=7)
    assert found.failure is None, "\n".join(found.failure.lines())
    assert found.n == N
    met = {name for name, count in found.counts.items() if count}
    expected = {f"aggregator {each}" for each in set(Reason) - NOT_AMONG_THE_REFUSED}
    expected |= {f"aggregator come back: {each}" for each in IN_ANSWER_TO_A_CHECK_IN}
    expected |= {f"device {each}" for each in OF_A_DEVICE}
    expected |= {"aggregator accepted", "device work_begun", "device report_settled", "device chunk_refused"}
    expected |= {f"aggregator accepted as {name}" for name in CODECS}
    expected |= {f"aggregator version by {each['name']}" for each in RULES if "mixing" not in each}
    expected |= {"aggregator version by mixed median"}
    assert sorted(expected - met) == []


def _raises_at_a_size(patch: pytest.MonkeyPatch) -> None:
    """A check that divides by what a device says."""
    check = admission.check_report

    def broken(report: Any, lease: Any, **known: Any) -> None:
        if report.num_examples:
            1 / (report.num_examples - 10)
        check(report, lease, **known)

    patch.setattr("aggregator.reception.check_report", broken)


def _forgets_the_norm(patch: pytest.MonkeyPatch) -> None:
    """One device moves the model as far as it likes."""
    patch.setattr("aggregator.intake.verify", lambda codec, data, n_params, max_norm: verify(codec, data, n_params))


def _checks_in_for_ever(patch: pytest.MonkeyPatch) -> None:
    """A device that a fleet tells to check in every 0 s does, and nothing else."""
    patch.setattr("edge_client.presence.LEAST_CHECK_IN_S", 0.0)
    patch.setattr(running, "LONGEST_S", 0.5)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("plant", "says"),
    [
        (_raises_at_a_size, "ZeroDivisionError"),
        (_forgets_the_norm, "the model moved by"),
        (_checks_in_for_ever, "there is no end"),
    ],
)
def test_planted_bug_is_found_and_replayed(
    plant: Callable[[pytest.MonkeyPatch], None], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named with its payload; the same seed meets it again at the same payload."""
    plant(monkeypatch)
    found = fuzz(5000, seed=1)
    assert found.failure is not None
    assert says in found.failure.trace
    again = fuzz(found.failure.index + 1, seed=1)
    assert again.failure is not None
    assert (again.failure.index, again.failure.payload) == (found.failure.index, found.failure.payload)


def test_payloads_are_a_function_of_the_seed_alone() -> None:
    """Another process, with other hashes, sends the same ones."""
    here = fuzz(1500, seed=5)
    out = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--n", "1500", "--seed", "5", "--json"],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "7"},
        stdout=subprocess.PIPE,
        check=False,
    ).stdout
    assert json.loads(out)["counts"] == dict(here.counts)


def test_later_life_begins_where_it_is_asked_to() -> None:
    """A failure late in a long run is replayed by its own life only."""
    together = fuzz(900, seed=3, life=300)
    parts = [fuzz(300, seed=3, first=first, life=300) for first in (0, 300, 600)]
    assert sum((part.counts for part in parts), Counter[str]()) == together.counts


def test_command_says_how_it_went_and_exits_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """0 and a summary when all held; 1, the payload and the command that replays it when not."""
    good = CliRunner().invoke(app, ["--n", "300", "--seed", "4"])
    assert "300 payloads of seed 4" in good.stdout
    assert "replay" not in good.stdout
    _raises_at_a_size(monkeypatch)
    bad = CliRunner().invoke(app, ["--n", "5000", "--seed", "4", "--life", "1000"])
    assert bad.exit_code == 1
    assert "ZeroDivisionError" in bad.stdout
    assert "replay: python -m tests.fuzz --seed 4 --from 0 --n " in bad.stdout
    assert bad.stdout.rstrip().endswith("--life 1000")


def test_command_refuses_to_begin_within_a_life() -> None:
    """A replay from there would send other payloads."""
    result = CliRunner().invoke(app, ["--from", "5"])
    assert result.exit_code == 2
    assert "100000" in result.output
    assert "--from 0 --n 6" in result.output


def test_misses_names_the_ceilings_that_do_not_hold() -> None:
    """One slow payload in a thousand is allowed; memory is not."""
    quick = Found(n=1000, times_s=array("f", [0.001] * 1000))
    assert misses(quick) == []
    slow = Found(n=1000, times_s=array("f", [0.001] * 990 + [0.006] * 10), rss_growth=command.RSS_GROWTH + 1)
    late, large = misses(slow)
    assert "p99.9 is 6.00 ms" in late
    assert "memory grew by 64.0 MiB" in large
