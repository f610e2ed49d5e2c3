"""What an update counts."""

from aggregator.rules import weight_of


def test_max_examples_caps_what_a_device_can_claim() -> None:
    """A boast of a million examples counts as the cap."""
    assert weight_of("examples", 10**6, max_examples=500) == 500.0
