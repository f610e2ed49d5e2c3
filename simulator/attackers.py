"""A device that attacks: it carries its work out as any other, and sends something else.

What is sent is well formed, under its lease, with its checksum: nothing but the numbers is wrong. The honest code stays
as it is; `carry_out` is called, and its report rewritten. Attackers that know each other compute each other's updates,
each on the other's data, so that they agree without a word between them, in any process and to the bit, on what each
then encodes with the codec of its own lease. The time that it takes is not counted. What a device keeps between
updates is its own: of the others they compute what comes of none.

Not here: the attacks (`scenarios/attacks.py`).
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_client.training import Finished, Gate, carry_out
from shared.chunking import sha256_hex
from shared.codecs import codec_named, decode_vector
from shared.errors import ConfigError
from shared.messages import Assignment, Kind, Reported
from shared.parameters import ParameterSpec, Vector
from shared.task import Arrays, Client, Task
from simulator.scenarios.attacks import FLIP_LABELS, AttackSettings, needs_colluders, poisoned

__all__ = ["Attacker"]

EXACT = "float32"
"""The codec in which attackers tell each other what they have learned."""


class Attacker:
    """What an attacking device has in the place of `edge_client.training.carry_out`.

    Args:
        attack: of its group.
        task: what all learn, computed here and now.
        colluders: every attacker of the fleet, itself among them.
    """

    def __init__(self, attack: AttackSettings, task: Task, colluders: Sequence[Client]) -> None:
        self._attack, self._task, self._colluders = attack, task, tuple(colluders)
        self._has_learned_wrong = False

    def __call__(
        self,
        order: Assignment,
        *,
        client: Client,
        received: Callable[[], tuple[ParameterSpec, Vector]],
        spec: ParameterSpec,
        **others: Any,
    ) -> Finished | None:
        """See `edge_client.training.carry_out`.

        Raises:
            ConfigError: labels are to be flipped, and the task learns the same as ever.
        """
        if order.kind is Kind.TRAIN and order.work is not None and self._attack.kind == "label-flip":
            honest, options = order, {**order.work.options, FLIP_LABELS: True}
            order = order.model_copy(update={"work": order.work.model_copy(update={"options": options})})
            self._refuse_right_labels(order, honest, client, received, spec)
        finished = carry_out(order, client=client, received=received, spec=spec, **others)
        if finished is None or finished.report.outcome is not Reported.TRAINED:
            return finished
        theirs, _ = received()
        payload = self._sent(order, client, finished.payload, theirs, received, spec)
        update = {"size": len(payload), "sha256": sha256_hex(payload)}
        return replace(finished, payload=payload, report=finished.report.model_copy(update=update))

    def _sent(
        self,
        order: Assignment,
        client: Client,
        honest: bytes,
        theirs: ParameterSpec,
        received: Callable[[], tuple[ParameterSpec, Vector]],
        spec: ParameterSpec,
    ) -> bytes:
        codec = codec_named(order.codec, theirs)
        if self._attack.kind == "nan":
            return codec.encode(np.full(theirs.n_params, np.nan, np.float32), order.codec_seed)
        if self._attack.kind == "label-flip":
            return honest
        own = _decoded(order, honest, theirs)
        others = [self._of(each, order, received, spec) for each in self._colluders] if self._knows_others else []
        rng = np.random.default_rng(_number(order.model.digest, client.id))
        sent = poisoned(self._attack, own, [each for each in others if each is not None] or [own], rng)
        return codec.encode(sent, order.codec_seed)

    def _refuse_right_labels(
        self,
        flipped: Assignment,
        honest: Assignment,
        client: Client,
        received: Callable[[], tuple[ParameterSpec, Vector]],
        spec: ParameterSpec,
    ) -> None:
        """Look once whether the option changes what is learned, or the rehearsal would praise a rule for nothing.

        Raises:
            ConfigError: it does not.
        """
        if self._has_learned_wrong:
            return
        wrong, right = (self._learned(client, order, received, spec) for order in (flipped, honest))
        if wrong is None or right is None or not right.any():
            return  # nothing was learned at all, so nothing is known yet
        if (wrong == right).all():
            raise ConfigError(
                f"the task learns the same with the option {FLIP_LABELS} as without it",
                where="attack label-flip",
                hint=f"let its train take n - 1 - y for each label y of n where work.options has {FLIP_LABELS}",
            )
        self._has_learned_wrong = True

    @property
    def _knows_others(self) -> bool:
        return needs_colluders(self._attack)

    def _of(
        self,
        colluder: Client,
        order: Assignment,
        received: Callable[[], tuple[ParameterSpec, Vector]],
        spec: ParameterSpec,
    ) -> NDArray[np.float32] | None:
        """Return what a colluder would have sent for the same model; None: it has nothing to train on."""
        assert order.work is not None
        work = order.work.model_copy(update={"seed": _number(order.model.digest, colluder.id)})
        return self._learned(colluder, order.model_copy(update={"work": work}), received, spec)

    def _learned(
        self,
        client: Client,
        order: Assignment,
        received: Callable[[], tuple[ParameterSpec, Vector]],
        spec: ParameterSpec,
    ) -> NDArray[np.float32] | None:
        """Return what comes of some work at once, as no codec has touched it; None: nothing."""
        assert order.work is not None
        theirs, _ = received()
        plain = {
            "codec": EXACT,
            "max_bytes": codec_named(EXACT).encoded_bytes(theirs.n_params),
            "work": order.work.model_copy(update={"state_of": None}),
        }
        order = order.model_copy(update=plain)
        finished = carry_out(
            order,
            task=self._task,
            client=client,
            received=received,
            spec=spec,
            state=_nothing,
            gate=Gate(lambda: 0.0, None),
        )
        if finished is None or finished.report.outcome is not Reported.TRAINED:
            return None
        return _decoded(order, finished.payload, theirs)


def _nothing() -> Arrays:
    return {}


def _decoded(order: Assignment, payload: bytes, theirs: ParameterSpec) -> NDArray[np.float32]:
    return decode_vector(codec_named(order.codec, theirs), payload, theirs.n_params)


def _number(digest: str, device: str) -> int:
    """Return 63 bits that follow from a model and a device."""
    return int(hashlib.sha256(f"{digest} {device}".encode()).hexdigest(), 16) >> 193
