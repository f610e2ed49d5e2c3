"""How a selection rule is asked: in one go for many places, ahead of time for single ones, and held to its word.

A rule looks at every candidate, so it is not asked anew for each place that falls free: where thousands wait, it names
a few more than are wanted, and these are taken in its order, as far as they still wait, until the next round. Without
rounds that wait for each other, they are taken until none is left.

Pure. Not here: who may be asked (`invitations.py`), the rules (`selection.py`, `oort.py`).
"""

from collections import deque
from collections.abc import Mapping, Sequence

from aggregator.config import SelectionSettings, Settings
from aggregator.oort import Oort
from aggregator.selection import Candidate, Draw, SelectionRule, Uniform, draw_cohort
from aggregator.track_records import TrackRecords
from shared.errors import ConfigError, InvalidState

__all__ = ["CANDIDATES_A_PLACE", "Drawing", "built_in_rule"]

CANDIDATES_A_PLACE = 256
"""A rule looks at no more candidates for each place, but for the first of a round: a quarter of a millisecond."""


class Drawing:
    """Draws for one run.

    Args:
        settings: of the run.
        rule: that is asked.
        records: what is known of devices.
    """

    def __init__(self, settings: Settings, rule: SelectionRule, records: TrackRecords) -> None:
        self._settings, self._rule, self._records = settings, rule, records
        self._ahead: deque[str] = deque()
        self._round_id = 0

    def take(self, size: int, candidates: Mapping[str, str], round_id: int) -> list[str]:
        """Return at most `size` of the candidates, in the order of the rule.

        Args:
            size: how many are wanted, >= 1.
            candidates: id -> class of each device that may be asked now.
            round_id: that asks.

        Raises:
            ConfigError: the rule of a user's own failed, or named whom it must not.
        """
        if round_id != self._round_id and self._settings.round.outstanding is None:
            self._ahead.clear()
        self._round_id = round_id
        taken: dict[str, None] = {}
        is_fresh = False
        while len(taken) < size:
            if not self._ahead:
                left = (
                    {device: kind for device, kind in candidates.items() if device not in taken}
                    if taken
                    else candidates
                )
                if is_fresh or not left:
                    break
                wanted = max(size - len(taken), -(-len(left) // CANDIDATES_A_PLACE))
                self._ahead.extend(self._drawn(left, wanted, round_id))
                is_fresh = True
                continue
            device = self._ahead.popleft()
            if device in candidates:
                taken[device] = None
        return list(taken)

    def _drawn(self, candidates: Mapping[str, str], size: int, round_id: int) -> Sequence[str]:
        seed = self._settings.seed
        if isinstance(self._rule, Uniform):  # it needs no history: nothing is put together for it
            return draw_cohort(seed, "train", round_id, candidates, size)
        described = [self._records.candidate(device, kind) for device, kind in candidates.items()]
        draw = Draw(seed=seed, round_id=round_id, n_asked=self._records.n_asked, utilities=self._records.utilities)
        where = f"selection.rule = {self._settings.selection.rule}"
        try:
            drawn: list[object] = list(self._rule.draw(described, size, draw))
        except Exception as error:  # a user's own may raise anything
            raise ConfigError(f"draw() failed with {type(error).__name__}: {error}", where=where) from error
        named: dict[str, None] = {}
        for device in drawn:
            if not isinstance(device, str) or device not in candidates:
                raise ConfigError(f"draw() named {device!r}, who is no candidate", where=where)
            if device in named:
                raise ConfigError(f"draw() named {device} twice", where=where)
            named[device] = None
        if len(named) > size:
            raise ConfigError(f"draw() named {len(named)} devices where {size} are wanted", where=where)
        return list(named)


def built_in_rule(settings: SelectionSettings) -> SelectionRule:
    """Return one of our own rules; in place of a user's, one that must not be asked."""
    match settings.rule:
        case "uniform":
            return Uniform()
        case "oort":
            return Oort(settings.oort)
    return _NotLoaded()


class _NotLoaded:
    """Stands for a user's rule where nobody is drawn, as when a journal is looked at."""

    def draw(self, candidates: Sequence[Candidate], size: int, draw: Draw) -> Sequence[str]:
        raise InvalidState("the selection rule was not loaded")
