import pytest

from broker.link import Failures, LinkProfile
from simulator.scenarios.links import LINKS, link_table, mathis_bytes_per_s, name_of, with_loss


def test_mathis_is_the_number_worked_by_hand() -> None:
    """1460 / 0.6 x sqrt(1.5 / 0.001) = 2433.3 x 38.73 = 94,240; four times the loss halves it."""
    assert mathis_bytes_per_s(round_trip_s=0.6, loss=0.001) == pytest.approx(94_243, rel=1e-3)
    assert mathis_bytes_per_s(round_trip_s=0.6, loss=0.004) == pytest.approx(94_243 / 2, rel=1e-3)


def test_loss_lowers_the_rate_and_brings_pauses() -> None:
    """The rate is the lower of the link's and TCP's; a link's own stalls stay."""
    thin = LinkProfile(latency_s=0.3, up_bytes_per_s=1000, down_bytes_per_s=10_000_000)
    lossy = with_loss(thin, 0.01)
    assert lossy.up_bytes_per_s == 1000
    assert lossy.down_bytes_per_s == pytest.approx(mathis_bytes_per_s(round_trip_s=0.6, loss=0.01))
    assert lossy.stalls == Failures(every_s=100, lasts_s=1.2)
    assert with_loss(thin, 0) == thin
    own = thin.model_copy(update={"stalls": Failures(every_s=5, lasts_s=1)})
    assert with_loss(own, 0.01).stalls == Failures(every_s=5, lasts_s=1)


def test_table_may_stand_on_a_built_in_link() -> None:
    """`base` brings the rest; what is written wins."""
    profile = LinkProfile.model_validate(link_table({"base": "wifi", "latency_s": 0.2}))
    assert profile == LINKS["wifi"].model_copy(update={"latency_s": 0.2})
    assert name_of(profile) == "own"
    assert name_of(LinkProfile.model_validate(link_table("4g"))) == "4g"


def test_table_may_say_loss() -> None:
    """The loss of a written link becomes rate and stalls as that of a built-in one."""
    profile = LinkProfile.model_validate(link_table({"base": "lan", "loss": 0.02}))
    assert profile == with_loss(LINKS["lan"], 0.02)


@pytest.mark.parametrize(
    "written", ["wfi", {"base": "wfi"}, {"base": 3}, {"loss": 1}, {"loss": "much"}, {"loss": -0.1}]
)
def test_unknown_link_is_refused(written: object) -> None:
    """A name that is not built in, and a loss that is no share."""
    with pytest.raises(ValueError, match=r"there is no link|a share of packets"):
        link_table(written)
