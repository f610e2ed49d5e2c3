import pytest

from edge_client.advice import ADVICE, TURNED_AWAY, advice_for, facts_of_refusal
from shared.errors import OWN_RULES, PERMANENT, Reason

NEVER_FINAL = {
    *(Reason.TOPIC, Reason.RATE, Reason.UNKNOWN_LEASE, Reason.FOREIGN_LEASE, Reason.OTHER_RUN, Reason.CHUNK),
    *(Reason.NOT_DRAWN, Reason.QUOTA, Reason.CLONED_ID, Reason.PAUSED),
    *(Reason.DISK, Reason.OPERATOR, Reason.DEVICE_RESTARTED),
    *OWN_RULES,
}
"""What no receipt gives as the reason of a final outcome; disk, operator and restart nobody gives at all yet."""


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason not in NEVER_FINAL])
def test_every_reason_of_a_final_outcome_has_advice(reason: Reason) -> None:
    """Whoever reads the log knows what to do, even where that is nothing."""
    assert advice_for(reason)


def test_nothing_is_advised_where_nothing_is_refused() -> None:
    """An accepted update has no reason."""
    assert advice_for(None) is None
    assert not NEVER_FINAL & ADVICE.keys()


def test_every_refusal_that_a_person_must_lift_says_how() -> None:
    """And when the device asks again by itself, and that a restart does so at once; nothing stands there empty."""
    assert TURNED_AWAY.keys() == PERMANENT
    facts = facts_of_refusal(Reason.SPEC, "", "12:00 UTC")
    assert facts == {
        "reason": "spec",
        "what_to_do": TURNED_AWAY[Reason.SPEC],
        "next_try": "12:00 UTC",
        "sooner": "a restart asks at once",
    }
    assert facts_of_refusal(Reason.PROTOCOL, "speaks 2", "12:00 UTC")["detail"] == "speaks 2"
