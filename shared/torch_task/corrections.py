"""What a device's algorithm adds to the gradient of every step: correction + µ (w − w_received).

FedProx (Li et al., MLSys 2020, arXiv 1812.06127, eq. 2), SCAFFOLD (Karimireddy et al., ICML 2020, arXiv 1910.06378,
algorithm 1, the local update) and FedDyn (Acar et al., ICLR 2021, arXiv 2111.04263, eq. 1) all have this form.

It is added after the gradient's norm was bounded, where a task bounds it. So over K steps of plain SGD at rate η the
mean of the bounded gradients is (w_received − w) / (Kη) − correction, to the letter of SCAFFOLD's option II, which a
bound on the sum would break. The price: a step may be longer than the bound times the rate.

Not here: whence the numbers come (`edge_client/training.py`).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from shared.errors import InvalidState
from shared.task import Arrays

__all__ = ["Correction"]


class Correction:
    """Of one training. It remembers the parameters as they are when it is made: the received ones.

    Args:
        parameters: that travel and are stepped, by the names that they have in a `state_dict`; tied ones have several
            and are corrected once, by the first of them that is in `correction`.
        correction: by name; a name that it lacks is corrected by nothing, one that is no parameter does nothing.
        mu: >= 0.

    Raises:
        InvalidState: a correction has another shape than its parameter.
    """

    def __init__(self, parameters: Mapping[nn.Parameter, Sequence[str]], correction: Arrays, mu: float) -> None:
        self._mu = mu
        self._added = {p: _added_to(p, names, correction) for p, names in parameters.items()}
        self._received = {p: p.detach().clone() for p in parameters} if mu else {}

    @torch.no_grad()
    def add(self) -> None:
        """Add it to the gradients; a parameter without one has a gradient of zeros."""
        for p, added in self._added.items():
            if added is not None:
                p.grad = added.clone() if p.grad is None else p.grad.add_(added)
            if p in self._received and p.grad is not None:
                p.grad.add_(p - self._received[p], alpha=self._mu)


def _added_to(p: nn.Parameter, names: Sequence[str], correction: Arrays) -> Tensor | None:
    name = next((name for name in names if name in correction), None)
    if name is None:
        return None
    array = correction[name]
    if tuple(array.shape) != tuple(p.shape):  # add_ would broadcast
        raise InvalidState(f"the correction of {name!r} is {list(array.shape)}, the model's is {list(p.shape)}")
    return torch.tensor(array, dtype=p.dtype, device=p.device)
