"""Modes: shorthand for the knobs with which one engine is synchronous, asynchronous, or anything between.

A mode fills the knobs that the configuration leaves unset, and is nothing besides: what the engine does follows from
the knobs alone. Synchronous rounds: McMahan et al. (arXiv 1602.05629). Semi-synchronous: equal seconds of work for
every device, normalised by its steps as in FedNova, Wang, Liu, Liang, Joshi, Poor, "Tackling the Objective
Inconsistency Problem in Heterogeneous Federated Optimization" (NeurIPS 2020, arXiv 2007.07481). Asynchronous: FedBuff,
Nguyen et al., "Federated Learning with Buffered Asynchronous Aggregation" (AISTATS 2022, arXiv 2106.06639), whose K is
`report_goal`; with a goal of 1 it commits as FedAsync does, Xie, Koyejo, Gupta (arXiv 1903.03934).

Pure. Not here: the knobs' own bounds, and which of them cannot hold together (`config.py`).
"""

import contextlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

__all__ = ["MODES", "Mode", "filled", "filled_round"]

Mode: TypeAlias = Literal["sync", "semi-sync", "async"]

OVER_SELECTION = 1.3
WORK_SHARE = 0.5
"""Of the widest window that semi-synchronous work takes; the rest is for the way down and the way up."""
OUTSTANDING_GOALS = 2
"""A goal's worth of devices is still at work when one is reached: nobody waits for the slowest of them."""

MODES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "sync": {"over_selection": OVER_SELECTION, "max_staleness": 0, "quorum": 0.8},
        "semi-sync": {"over_selection": OVER_SELECTION, "max_staleness": 1, "quorum": 0.8},
        "async": {"max_staleness": 50, "quorum": 1.0},
    }
)
"""What each mode fills into the table `round`, beside `outstanding`; `docs/protocol.md` prints all of it."""


def filled_round(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the table `round` with the knobs of its mode in the place of those that are unset.

    Args:
        given: as the configuration has it; what is no mode is left for others to refuse.
    """
    table = dict(given)
    mode = table.get("mode", "sync")
    if not isinstance(mode, str) or mode not in MODES:
        return table
    if mode == "async":
        with contextlib.suppress(TypeError, ValueError):  # no number: refused where its bounds are
            _fill(table, "outstanding", OUTSTANDING_GOALS * int(table.get("report_goal", "")))
    for key, value in MODES[mode].items():
        if key != "over_selection" or table.get("outstanding") is None:
            _fill(table, key, value)
    table.setdefault("over_selection", None)
    return table


def filled(mode: str, window_max_s: float, training: Mapping[str, Any], server: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tables `training` and `server` with the knobs of a mode in the place of those that are unset.

    Args:
        mode: of the rounds.
        window_max_s: the widest reporting window, in seconds.
        training: the table, as the configuration has it.
        server: likewise.
    """
    tables = {"training": dict(training), "server": dict(server)}
    if mode == "semi-sync":
        _fill(tables["training"], "max_seconds", WORK_SHARE * window_max_s)
        _fill(tables["server"], "normalize", "steps")
    return tables


def _fill(table: dict[str, Any], key: str, value: object) -> None:
    if table.get(key) is None:
        table[key] = value
