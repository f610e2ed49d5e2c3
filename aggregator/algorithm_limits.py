"""What algorithms ask of the rest of the settings: those that keep state on devices, and q-FedAvg.

SCAFFOLD's c and FedDyn's h are right only while the server's sum is that of what the devices keep. So every update that
counts must count once, as it is, and none from an older version: its weight is one, it is not late, not damped, not
normalised away. q-FedAvg has a mean of its own, in which devices count alike unless told otherwise, and no update is
clipped. What is unset is filled so; what is set and cannot hold is refused, with what to change.

Pure.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from aggregator.learning_settings import ServerSettings, TrainingSettings
from shared.algorithms import STATEFUL

__all__ = ["contradiction", "filled_for_algorithm"]

_OWN_RULE = "q-FedAvg divides by a sum of its own"
_UNCLIPPED = "an update shortens the step by its norm as it was sent, and a clipped one would all but stop the model"
_SUM = "the server keeps the plain sum of what every device sends"


def filled_for_algorithm(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with what such an algorithm needs in the place of what is unset.

    Args:
        given: as the configuration has it; what is no table is left for others to refuse.
    """
    tables = {name: given.get(name, {}) for name in ("training", "round", "server")}
    if not all(isinstance(table, Mapping) for table in tables.values()):
        return dict(given)
    algorithm = tables["training"].get("algorithm")
    if algorithm not in STATEFUL and algorithm != "qfedavg":
        return dict(given)
    wanted: dict[str, dict[str, Any]] = {"round": {}, "server": {"weighting": "uniform"}}
    if algorithm in STATEFUL and tables["round"].get("mode") != "async":  # which is refused by its name
        wanted["round"]["max_staleness"] = 0
    if algorithm in ("feddyn", "qfedavg"):
        wanted["server"]["normalize"] = "none"
    full = {
        name: {**table, **{key: value for key, value in wanted[name].items() if table.get(key) is None}}
        for name, table in tables.items()
        if name in wanted
    }
    return {**given, **full}


def contradiction(training: TrainingSettings, server: ServerSettings, *, mode: str, max_staleness: int) -> str | None:
    """Return what cannot hold with the algorithm, and what to change; None: all of it can.

    Args:
        training: the table.
        server: the table.
        mode: of the rounds.
        max_staleness: likewise.
    """
    algorithm = training.algorithm
    if algorithm not in STATEFUL and server.population is not None:
        return f"server.population is of scaffold and feddyn alone, and algorithm = {algorithm}: leave it out"
    if algorithm == "qfedavg":
        own = (
            (server.rule.name != "mean", f"server.rule = {server.rule.name}", _OWN_RULE, "rule = mean"),
            (server.normalize != "none", f"server.normalize = {server.normalize}", _OWN_RULE, "normalize = none"),
            (server.clip_norm is not None, f"server.clip_norm = {server.clip_norm}", _UNCLIPPED, "max_norm"),
        )
        return _first(algorithm, own)
    if algorithm not in STATEFUL:
        return None
    on_time = "mode = sync" if mode == "async" else "max_staleness = 0"
    late = f"round.max_staleness = {max_staleness} (round.mode = {mode})"
    checks = (
        (max_staleness > 0, late, "a late update was corrected by what the server knew before", on_time),
        (server.weighting != "uniform", f"server.weighting = {server.weighting}", _SUM, "weighting = uniform"),
        (server.reweight != "off", f"server.reweight = {server.reweight}", _SUM, "reweight = off"),
        (server.rule.name != "mean", f"server.rule = {server.rule.name}", _SUM, "rule = mean"),
        (server.clip_norm is not None, f"server.clip_norm = {server.clip_norm}", _SUM, "max_norm"),
        (
            algorithm == "feddyn" and server.normalize != "none",
            f"server.normalize = {server.normalize}",
            "a device's state moves by all that it sent",
            "normalize = none",
        ),
    )
    return _first(algorithm, checks)


def _first(algorithm: str, checks: Sequence[tuple[bool, str, str, str]]) -> str | None:
    for is_so, what, why, instead in checks:
        if is_so:
            return f"{what} cannot hold with training.algorithm = {algorithm}: {why}; use {instead}"
    return None
