"""docs/protocol.md is the contract: its numbers are the code's constants, its reasons those that are sent."""

import re
from typing import Any

import pytest

from aggregator import admission, invitations, pausing, population, publishing, round_clock, service, uploads
from aggregator import presence as presences
from aggregator.config import TransferSettings
from broker import reconnect
from broker.config import BrokerSettings
from edge_client import fetch_window, final_leases, held_reports, presence, upload
from edge_client.config import TimerSettings
from shared import messages, wire, wire_fields
from shared.errors import Reason
from shared.parameters import MAX_ENTRIES
from tests.docs.generated import ROOT, blocks

PAGE = (ROOT / "docs/protocol.md").read_text()
WORDS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five", 8: "eight"}
ORDINALS = {3: "third"}
TRANSFER, TIMERS, BROKER = TransferSettings(), TimerSettings(), BrokerSettings()
CHUNK = messages.ModelRef.model_json_schema()["properties"]["chunk_bytes"]
MIB = 2**20


def w(number: float) -> str:
    """A small number as a word."""
    return WORDS[int(number)]


PHRASES: list[tuple[str, Any]] = [
    ("It has at most {:,} bytes, not counting `data`", messages.WireMessage.max_message_bytes),
    ("a device's status has at most {:,} bytes", messages.DeviceStatus.max_message_bytes),
    ("the aggregator's {:,}", messages.AggregatorStatus.max_message_bytes),
    ("more than {} entries in a map or list", wire.MAX_MAP),
    ("more than {} entries in a map or list", wire.MAX_ARRAY),
    ("more than {} maps and lists together", wire.MAX_CONTAINERS),
    ("strings over {} bytes", wire_fields.MAX_TEXT_BYTES),
    ("names and values have at most {:,} bytes", wire_fields.MAX_TABLE_BYTES),
    ("An index has at most {} MiB", wire.MAX_INDEX_BYTES // MIB),
    ("and {:,} arrays", MAX_ENTRIES),
    ("`chunk_bytes`, {:,} unless", TRANSFER.chunk_bytes),
    ("says otherwise, {:,} to", CHUNK["minimum"]),
    (" to {:,}; the last piece", CHUNK["maximum"]),
    ("The last {} versions stay", w(publishing.KEPT_VERSIONS)),
    ("up to {} models", w(publishing.MAX_BLOBS)),
    ("to at most {} at a time", fetch_window.MAX_WINDOW),
    ("nothing has come for {:g} s", TIMERS.chunk_s),
    ("or {} times as long as the slowest", w(fetch_window.SLOWEST_FACTOR)),
    ("The {} time it checks in", ORDINALS[fetch_window.ASKS_UNTIL_MISSING]),
    ("of the fleet ({:,} unless", TRANSFER.inline_bytes),
    ("`need`: {} chunks first", w(uploads.FIRST_GRANT)),
    ("within {:g} s doubles the next", uploads.FAST_GRANT_S),
    ("doubles the next, to at most {}", uploads.LARGEST_GRANT),
    ("stays under {} MiB", TRANSFER.granted_bytes // MIB),
    ("and under {} chunks", TRANSFER.granted_chunks),
    ("after {} connections on which no chunk", w(upload.LOSSES_UNTIL_HALVED)),
    ("down to {:,} bytes", upload.LEAST_CHUNK_BYTES),
    ("every PUBACK to at most {}", upload.MAX_OUTSTANDING),
    ("one keepalive ({} s)", BROKER.keepalive_s),
    ("do not come for {:g} s", uploads.SHORTEST_STALL_S),
    ("or {} times this upload's slowest gap", w(uploads.STALL_GAPS)),
    ("first chunk the aggregator waits {:g} s", uploads.FIRST_CHUNK_S),
    ("counts as {:g} s at most", uploads.LONGEST_GAP_S),
    ("at most {} different contents", w(uploads.MAX_OFFERS)),
    ("asks again {:g} s after its last PUBACK", TIMERS.receipt_min_s),
    ("up to {:g} s, ±", TIMERS.receipt_max_s),
    ("s, ± {:.0f} %", 100 * held_reports.JITTER),
    ("After {} offers without an answer", w(held_reports.OFFERS_UNTIL_PARKED)),
    ("with a piece that took over {:.0f} s", fetch_window.SOON_S),
    ("its last {} final leases", final_leases.KEPT_FINALS),
    ("{:g} × the", round_clock.ALLOWANCE),
    ("the {:.0f}th percentile", 100 * round_clock.PERCENTILE),
    ("of the last {} rounds", w(round_clock.ROUNDS_REMEMBERED)),
    ("younger than {} check-in intervals", w(population.CHECK_INS_MISSED)),
    ("away for {:g} s", pausing.BROKER_GONE_S),
    ("aggregator answers for {:g} s more", service.SHORTEST_ANSWER_S),
    ("by itself after {:g} s without an answer", TIMERS.finish_s),
    ("every `check_in_interval_s` ({:g} s unless", TRANSFER.check_in_interval_s),
    ("{:g} minutes for a passing refusal", invitations.TRANSIENT_RETRY_S / 60),
    ("{:g} hours for one that only", invitations.PERMANENT_RETRY_S / 3600),
    ("uniform between 0 and {:g} s", reconnect.BASE_S),
    ("doubling to {:g} s", reconnect.CAP_S),
    ("within {:g} s says `cloned_id`", presence.TAKEOVERS_WITHIN_S),
    ("whose earlier `boot` comes back {} within", {2: "twice"}[presences.RETURNS]),
    ("within {:g} s, for a device", presences.CLONE_WINDOW_S),
    ("stays away for {:g} hours", TIMERS.permanent_retry_s / 3600),
    ("may send {:g} reports and check-ins a second", TRANSFER.messages_per_s),
    ("up to {:g} at once", TRANSFER.messages_per_s * admission.BURST_SECONDS),
]


@pytest.mark.parametrize(("phrase", "value"), PHRASES)
def test_numbers_in_the_text_are_the_constants(phrase: str, value: object) -> None:
    """Whoever reads a number in the contract reads the one that the code obeys."""
    assert phrase.format(value) in " ".join(PAGE.split())


def test_reasons_that_nobody_sends_are_marked() -> None:
    """A reason is "not sent yet" exactly when no package uses it."""
    packages = ("aggregator", "broker", "edge_client", "shared")
    sources = "".join(path.read_text() for package in packages for path in (ROOT / package).rglob("*.py"))
    used = {Reason[name] for name in re.findall(r"\bReason\.([A-Z_]+)\b", sources)}
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", blocks(PAGE)["reasons"], flags=re.MULTILINE)
    assert {name for name, meaning in rows if meaning.startswith("not sent yet")} == set(Reason) - used
