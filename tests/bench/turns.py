"""Turns that nobody measured, to compare."""

from bench.turn import Turn

__all__ = ["a_turn"]


def a_turn(
    *round_s: float,
    cpu_s: float = 1.0,
    broker_cpu_s: float = 0.0,
    rss: int = 2**20,
    broker_rss: int = 0,
    loop_lag_ms: float | None = None,
) -> Turn:
    """Return a turn with these seconds of its rounds."""
    return Turn(
        round_s=round_s,
        server_cpu_s=cpu_s,
        broker_cpu_s=broker_cpu_s,
        clients_cpu_s=0.5,
        server_rss=rss,
        broker_rss=broker_rss,
        loop_lag_ms=loop_lag_ms,
    )
