"""The tables of docs/simulator.md that are not settings: built-in classes and links."""

from broker.link import Failures, LinkProfile
from simulator.scenarios.device_classes import CLASSES
from simulator.scenarios.links import LINKS

__all__ = ["CLASS_HEAD", "LINK_HEAD", "class_rows", "link_rows"]

CLASS_HEAD = ("class", "seconds a batch", "spread", "free memory, MiB", "processors", "battery")
LINK_HEAD = ("link", "latency + jitter, ms", "up", "down", "goes down", "stalls", "is reset")


def class_rows() -> list[tuple[str, ...]]:
    """Every built-in class."""
    return [
        (
            f"`{name}`",
            f"{each.seconds_per_batch:g}",
            f"{each.spread:g}",
            str(each.memory_mb),
            f"{each.cpus:g}",
            "yes" if each.has_battery else "no",
        )
        for name, each in CLASSES.items()
    ]


def link_rows() -> list[tuple[str, ...]]:
    """Every built-in link."""
    return [(f"`{name}`", *_link(each)) for name, each in LINKS.items()]


def _link(link: LinkProfile) -> tuple[str, ...]:
    reset = "never" if link.resets_every_s is None else f"every {_time(link.resets_every_s)}"
    return (
        f"{1000 * link.latency_s:g} + {1000 * link.jitter_s:g}",
        _rate(link.up_bytes_per_s),
        _rate(link.down_bytes_per_s),
        _failures(link.outages),
        _failures(link.stalls),
        reset,
    )


def _rate(rate: float | None) -> str:
    return "any" if rate is None else f"{rate / 1000:,.0f} kB/s"


def _failures(failures: Failures | None) -> str:
    return "never" if failures is None else f"every {_time(failures.every_s)} for {_time(failures.lasts_s)}"


def _time(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:.3g} s"
