"""Links by name, from a cable in the same room to a train in a tunnel, as profiles for `broker.link`.

The rates are what one TCP connection gets, in bytes a second; the latencies are one way. Lost packets are nothing that
MQTT ever sees: TCP sends them again, and what remains is a lower rate and now and then a pause. So loss is expressed as
those two. The rate is Mathis, Semke, Mahdavi and Ott, "The macroscopic behavior of the TCP congestion avoidance
algorithm" (ACM CCR 27(3), 1997), equation 3: MSS / RTT x sqrt(3/2) / sqrt(loss). The pause is that of a packet that
nothing follows, of which a device sends about one a second: no duplicate acknowledgement tells of its loss, so it waits
for the retransmission timeout, one second at least by RFC 6298.

Not modelled: that modern congestion controls (BBR) and a satellite's own proxies do better than the equation says.
"""

import math
from collections.abc import Mapping
from typing import Any

from broker.link import Failures, LinkProfile

__all__ = ["LINKS", "link_table", "mathis_bytes_per_s", "name_of", "with_loss"]

SEGMENT_BYTES = 1460
"""MSS on Ethernet."""
TIMEOUT_S = 1.0
"""The least retransmission timeout of RFC 6298."""
LONE_PACKETS_PER_S = 1.0


def mathis_bytes_per_s(*, round_trip_s: float, loss: float) -> float:
    """Return what TCP gets out of a path that loses packets.

    Args:
        round_trip_s: seconds there and back, > 0.
        loss: share of packets that is lost, in (0, 1).

    Returns:
        Bytes a second: 0.6 s and one packet in a thousand give 1460 / 0.6 x 1.2247 / 0.0316 = 94,000.
    """
    return SEGMENT_BYTES / round_trip_s * math.sqrt(1.5 / loss)


def with_loss(profile: LinkProfile, loss: float) -> LinkProfile:
    """Return a link as TCP makes it of one that loses packets: slower, and with pauses.

    Args:
        profile: without loss; stalls of its own stay as they are.
        loss: share of packets that is lost, in [0, 1).
    """
    if not loss:
        return profile
    round_trip_s = max(2 * profile.latency_s + profile.jitter_s, 1e-3)
    most = mathis_bytes_per_s(round_trip_s=round_trip_s, loss=loss)
    pauses = Failures(every_s=1.0 / (loss * LONE_PACKETS_PER_S), lasts_s=max(TIMEOUT_S, 2 * round_trip_s))
    return profile.model_copy(
        update={
            "up_bytes_per_s": min(most, profile.up_bytes_per_s or math.inf),
            "down_bytes_per_s": min(most, profile.down_bytes_per_s or math.inf),
            "stalls": profile.stalls or pauses,
        }
    )


LINKS: dict[str, LinkProfile] = {
    "lan": LinkProfile(latency_s=0.0005, up_bytes_per_s=12_500_000, down_bytes_per_s=12_500_000),
    "wifi": LinkProfile(
        latency_s=0.005,
        jitter_s=0.01,
        up_bytes_per_s=2_500_000,
        down_bytes_per_s=5_000_000,
        resets_every_s=6 * 3600,
    ),
    "4g": LinkProfile(
        latency_s=0.03,
        jitter_s=0.03,
        up_bytes_per_s=1_000_000,
        down_bytes_per_s=3_000_000,
        outages=Failures(every_s=2 * 3600, lasts_s=20),
    ),
    "3g": with_loss(
        LinkProfile(
            latency_s=0.08,
            jitter_s=0.06,
            up_bytes_per_s=120_000,
            down_bytes_per_s=400_000,
            outages=Failures(every_s=3600, lasts_s=30),
        ),
        loss=0.002,
    ),
    "edge": with_loss(
        LinkProfile(
            latency_s=0.3,
            jitter_s=0.2,
            up_bytes_per_s=8_000,
            down_bytes_per_s=20_000,
            outages=Failures(every_s=1800, lasts_s=60),
        ),
        loss=0.01,
    ),
    "satellite": with_loss(
        LinkProfile(latency_s=0.29, jitter_s=0.02, up_bytes_per_s=250_000, down_bytes_per_s=2_500_000), loss=0.001
    ),
    "tunnel": LinkProfile(
        latency_s=0.04,
        jitter_s=0.05,
        up_bytes_per_s=500_000,
        down_bytes_per_s=1_500_000,
        outages=Failures(every_s=120, lasts_s=40),
    ),
}
"""Built in: what one device may expect on a usual day, not what the standard promises."""


def name_of(profile: LinkProfile) -> str:
    """Return under which name a link is built in; "own" for any other."""
    return next((name for name, known in LINKS.items() if known == profile), "own")


def link_table(written: object) -> object:
    """Return what a scenario says of a link as the fields of a profile: a name, or a table that may say `base`, `loss`.

    Raises:
        ValueError: there is no link of that name, or `loss` is no share.
    """
    match written:
        case str(name):
            return _named(name)
        case Mapping():
            table: dict[str, Any] = dict(written)
            base, loss = table.pop("base", None), table.pop("loss", 0)
            if not (isinstance(loss, int | float) and 0 <= loss < 1):
                raise ValueError(f"loss = {loss!r}: a share of packets, at least 0 and less than 1")
            fields = {**({} if base is None else _named(base).model_dump()), **table}
            return with_loss(LinkProfile.model_validate(fields), loss) if loss else fields
        case _:
            return written


def _named(name: object) -> LinkProfile:
    if isinstance(name, str) and name in LINKS:
        return LINKS[name]
    raise ValueError(f"there is no link {name!r}; there are {', '.join(LINKS)}, or a table of your own")
