import json

from edge_client.device_status import STOPPED, gone, here
from edge_client.eligibility import Refusal
from edge_client.events import SendStatus
from shared.errors import Reason
from shared.messages import DeviceStatus
from shared.wire import decode_json
from tests.edge_client.builders import lease


def test_status_is_readable_by_a_person() -> None:
    """As `mosquitto_sub` shows it: short words, no codes."""
    wish = SendStatus(phase="training", round=3, lease=lease(1), refusal=None)
    status = json.loads(here(wish, boot="b", connection=2, progress=0.5, conditions={"load": 0.25}))
    assert status == {
        "v": 1,
        "online": True,
        "boot": "b",
        "connection": 2,
        "phase": "training",
        "round": 3,
        "lease": lease(1),
        "progress": 0.5,
        "detail": "",
        "conditions": {"load": 0.25},
    }


def test_longest_status_is_a_legal_message() -> None:
    """A detail of any length and alphabet is cut, so that the whole stays under 1 KiB."""
    for detail in ("\0" * 300, "模" * 300, '"' * 300):
        assert decode_json(DeviceStatus, gone(boot="b", connection=1, refusal=Refusal(Reason.SPEC, detail))).detail
    refusal = Refusal(Reason.SPEC, "x" * 10_000)
    wish = SendStatus(phase="reporting", round=2**40, lease=lease(1), refusal=refusal)
    conditions = {"load": 123.456, "battery": 0.123456789, "is_charging": False}
    said = here(wish, boot="0" * 16, connection=10**9, progress=1 / 3, conditions=conditions)
    assert decode_json(DeviceStatus, said).refusal is Reason.SPEC
    assert decode_json(DeviceStatus, gone(boot="b", connection=1, refusal=refusal)).detail == "x" * 256


def test_will_and_goodbye_differ() -> None:
    """A will knows nothing; a goodbye says whether there is still a report to come."""
    will = decode_json(DeviceStatus, gone(boot="b", connection=1))
    goodbye = decode_json(DeviceStatus, gone(boot="b", connection=1, phase=STOPPED, lease=lease(1)))
    assert (will.online, will.phase, will.lease) == (False, "", None)
    assert (goodbye.online, goodbye.phase, goodbye.lease) == (False, "stopped", lease(1))
