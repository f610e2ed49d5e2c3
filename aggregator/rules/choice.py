"""The rule that the settings name: one of ours, or a user's own by "module:name".

A user's own is an object with `combine(cohort)` (`cohort.py`), loaded into the aggregator's process, which keeps torch
out: put it into a file of its own, beside the TOML.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from aggregator.rule_settings import RuleSettings
from aggregator.rules.clipping import CenteredClipping
from aggregator.rules.cohort import Cohort, CohortRule, OverCohort, Rows
from aggregator.rules.geometric_median import GeometricMedian
from aggregator.rules.krum import Bulyan, Krum
from aggregator.rules.mean import Mean
from aggregator.rules.median import Median, TrimmedMean
from aggregator.rules.mixing import NearestNeighbourMixing
from aggregator.rules.rule import AggregationRule, Delta
from shared.errors import ConfigError, InvalidState
from shared.named_objects import load_named

__all__ = ["cohort_rule", "load_cohort_rule", "rule_of"]

_OURS: Mapping[str, Callable[[RuleSettings], CohortRule]] = MappingProxyType(
    {
        "median": lambda _: Median(),
        "trimmed-mean": lambda rule: TrimmedMean(rule.byzantine or 0),
        "krum": lambda rule: Krum(rule.byzantine or 0, is_multi=False),
        "multi-krum": lambda rule: Krum(rule.byzantine or 0, is_multi=True),
        "bulyan": lambda rule: Bulyan(rule.byzantine or 0),
        "geometric-median": lambda _: GeometricMedian(),
        "centered-clipping": lambda rule: CenteredClipping(rule.radius or 0.0, rule.iterations or 1),
    }
)


def cohort_rule(settings: RuleSettings, own: CohortRule | None = None) -> CohortRule:
    """Return the rule over the cohort that the settings name, mixed where they say so.

    Args:
        settings: `server.rule`, of no streaming rule.
        own: the user's, in place of one of ours.
    """
    rule = own or _OURS[settings.name](settings)
    return rule if settings.mixing == "none" else NearestNeighbourMixing(rule, settings.byzantine or 0)


def load_cohort_rule(settings: RuleSettings, folder: Path) -> CohortRule | None:
    """Return the rule over the cohort that the settings name; None: it is a streaming one.

    Args:
        settings: `server.rule`.
        folder: where a user's module is looked for first: the TOML's.

    Raises:
        ConfigError: it cannot be imported, or lacks `combine`.
    """
    if settings.is_streaming:
        return None
    if settings.name in _OURS:
        return cohort_rule(settings)
    own = load_named("aggregation rule", settings.name, folder, ("combine",), example="my_rules:rule")
    return cohort_rule(settings, _Own(settings.name, own))


def rule_of(
    over_cohort: CohortRule | None,
    new_rows: Callable[[int], Rows],
    *,
    normalize: Literal["none", "steps"] = "none",
    is_trainable: NDArray[np.bool_] | None = None,
) -> AggregationRule[Any]:
    """Return what the engine calls.

    Args:
        over_cohort: as `load_cohort_rule` returned it; None: the mean.
        new_rows: makes an empty place for updates of so many parameters.
        normalize: "steps": as FedNova does.
        is_trainable: (n_params,) bool, the parameters that are; needed for that. Distances between updates are taken
            over them alone.

    Raises:
        InvalidState: nobody says which parameters are trainable.
    """
    if over_cohort is not None:
        return OverCohort(over_cohort, new_rows, is_trainable)
    if normalize == "steps" and is_trainable is None:
        raise InvalidState("steps of which parameters?")
    return Mean(is_trainable if normalize == "steps" else None)


class _Own:
    """A user's rule, held to what a rule returns."""

    def __init__(self, name: str, own: Any) -> None:
        self._name, self._own = name, own

    def check(self, n_updates: int) -> None:
        """See `CohortRule`; a user's rule may have one or not, and refuses by raising whatever it likes."""
        try:
            if callable(check := getattr(self._own, "check", None)):
                check(n_updates)
        except (Exception, SystemExit) as error:
            raise ConfigError(
                f"aggregation rule {self._name!r} refuses {n_updates} updates: {type(error).__name__}: {error}",
                hint="a larger quorum (round.report_goal x round.quorum), or another rule; nothing was changed",
            ) from error

    def combine(self, cohort: Cohort) -> Delta:
        """See `CohortRule`.

        Raises:
            ConfigError: what the user's rule raised, or returned, is no delta.
        """
        refused = f"aggregation rule {self._name!r}: combine"
        hint = "it returns (cohort.n_params,) float64, all of it finite; nothing was changed"
        try:
            returned = np.asarray(self._own.combine(cohort))
            found = np.array(returned.real, dtype=np.float64)  # ours to write to, whatever the user keeps of it
        except (Exception, SystemExit) as error:  # a user's rule may raise anything, or end
            raise ConfigError(f"{refused} failed with {type(error).__name__}: {error}", hint=hint) from error
        if np.iscomplexobj(returned):
            raise ConfigError(f"{refused} returned complex numbers", hint=hint)
        if found.shape != (cohort.n_params,):
            raise ConfigError(f"{refused} returned {list(found.shape)} for {cohort.n_params} parameters", hint=hint)
        if not np.isfinite(found).all():
            raise ConfigError(f"{refused} returned NaN or Inf", hint=hint)
        if (largest := np.abs(found).max(initial=0.0)) > np.finfo(np.float32).max:
            raise ConfigError(f"{refused} returned {largest:.3g}, which is no float32", hint=hint)
        return found
