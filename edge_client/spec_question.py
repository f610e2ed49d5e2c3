"""In which parameter does the task differ from the run's model? Asked once a refusal, for the operator's log.

The index of the run's model says it, and the manifest names that model. A link that is lost before the answer has come
lets the question be asked again.

Pure. Not here: fetching the index (`session.py`).
"""

from typing import Literal

from edge_client.eligibility import Refusal
from edge_client.events import ExplainSpec
from shared.errors import Reason
from shared.messages import ModelRef, Round

__all__ = ["SpecQuestion"]


class SpecQuestion:
    """One device's question about one run after the other."""

    def __init__(self) -> None:
        self._models: dict[str, ModelRef] = {}
        self._state: Literal["unasked", "asked", "told"] = "unasked"

    def saw(self, manifest: Round) -> None:
        """The newest model of a run is known."""
        self._models[manifest.run] = manifest.model

    def again(self) -> None:
        """Another refusal, or another run: nobody has looked yet."""
        self._state = "unasked"

    def link_lost(self) -> None:
        """What was asked will not be answered."""
        if self._state == "asked":
            self._state = "unasked"

    def ask(self, run: str | None, refusal: Refusal | None) -> ExplainSpec | None:
        """Return the question, if there is one that has not been asked and whose model is known."""
        model = self._models.get(run or "")
        if run is None or model is None or refusal is None or refusal.reason is not Reason.SPEC:
            return None
        if self._state != "unasked":
            return None
        self._state = "asked"
        return ExplainSpec(run, model)

    def told(self) -> None:
        """The answer is there."""
        self._state = "told"
