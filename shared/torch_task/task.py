"""A model, its data and a loss become a `Task`.

Bits: on a CPU the same seed gives the same bits. One training runs at a time in a process, under a forked random
generator and in one thread: small models are no faster in two, and sums in another order have other bits. Whoever has
a large model sets `OMP_NUM_THREADS`; then torch's own number is left alone.

Not here: the steps of a training (`local_training.py`).
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from shared.errors import ConfigError, InvalidState
from shared.task import Arrays, Client, Evaluated, Initial, Ratio, Trained, Work
from shared.torch_task.arrays import copy_into, entries_of, is_in_numpy, to_arrays
from shared.torch_task.batches import Batch, MetricSums, n_examples, split
from shared.torch_task.client_optimizers import ClientOptimizer, check_step, sgd
from shared.torch_task.division import BASE, Division, Patterns, checked_patterns, name_of_base
from shared.torch_task.local_training import ALGORITHMS, PIECE, LocalTraining, Recipe, batches_for
from shared.torch_task.seeding import alone, device_named

__all__ = ["TorchTask"]

_BUILD_SEED = 0
"""Models on clients are built under one seed, so that what does not travel starts alike everywhere."""


class TorchTask:
    """A `Task` made of parts. Keeps nothing between calls.

    Args:
        model: builds the network; called under a seed, in a forked random generator.
        loss: mean loss over a batch, a scalar tensor.
        train_data: a client's own examples, with a length; at least one.
        test_data: held-out examples of a client, or of the aggregator (client None); None: there are none here.
        metrics: of a batch, as ratios that are summed; `loss` is always added.
        optimizer: client optimizer from (parameters, learning rate): `sgd`, `momentum`, `adam`, or any of torch's own.
        keep_optimizer: whether its moments stay on the client from one accepted update to the next; else each training
            begins with new ones. `docs/learning.md` says when to.
        personal: name patterns (`head.*`) of entries that never travel: they stay on the client, in its state, and are
            trained there (FedPer); `norm_layers` for FedBN. See `division.py`.
        head_epochs: of each training so many epochs first train the personal entries alone, and the rest trains what
            travels alone (FedRep); None: all is trained together.
        shared: name patterns (`*lora_*`) of all that travels; what is neither shared nor personal stays as `model` has
            built it, and is frozen; None: all travels that is not personal.
        max_gradient_norm: the gradient of a step is scaled down to this 2-norm, before an algorithm's correction is
            added (`corrections.py` says why); None: never.
        collate: makes a batch of a list of examples; None: torch's default.
        device: "auto" takes cuda, then mps, then cpu.
    """

    def __init__(
        self,
        *,
        model: Callable[[], nn.Module],
        loss: Callable[[nn.Module, Batch], Tensor],
        train_data: Callable[[Client], Dataset[Any]],
        test_data: Callable[[Client | None], Dataset[Any] | None] = lambda client: None,
        metrics: Callable[[nn.Module, Batch], Mapping[str, Ratio]] | None = None,
        optimizer: Callable[[Iterable[nn.Parameter], float], ClientOptimizer] = sgd,
        keep_optimizer: bool = False,
        personal: Patterns = (),
        head_epochs: int | None = None,
        shared: Patterns | None = None,
        max_gradient_norm: float | None = None,
        collate: Callable[[list[Any]], Batch] | None = None,
        device: str = "auto",
    ) -> None:
        if max_gradient_norm is not None and not max_gradient_norm > 0:
            raise ConfigError(f"max_gradient_norm is {max_gradient_norm}, it must be above 0")
        if head_epochs is not None and (head_epochs < 1 or not personal):
            hint = "name them by personal=['head.*'], or leave out head_epochs"
            raise ConfigError(f"head_epochs is {head_epochs}, of {personal or 'no'} personal entries", hint=hint)
        check_step(optimizer)
        self._personal = checked_patterns("personal", personal)
        self._shared = None if shared is None else checked_patterns("shared", shared)
        self._model, self._metrics, self._device_name = model, metrics, device
        self._train_data, self._test_data = train_data, test_data
        self._recipe = Recipe(
            loss=loss,
            optimizer=optimizer,
            keep_optimizer=keep_optimizer,
            max_gradient_norm=max_gradient_norm,
            collate=collate,
            head_epochs=head_epochs,
        )

    def initial_parameters(self, seed: int) -> Initial:
        """See `Task`. bfloat16 entries appear as float32; integer ones are there, and stay the server's.

        Raises:
            ConfigError: a pattern of `personal` or `shared` matches no name, or they divide the model as it cannot be.
        """
        with alone(seed, torch.device("cpu")):
            model = self._model()
        division = self._division_of(model)
        division.check(model)
        learned = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        travels = {name: entry for name, entry in entries_of(model).items() if division.travels(name)}
        buffers = {name for name, entry in travels.items() if entry.is_floating_point() and name not in learned}
        parameters = dict(to_arrays(travels))
        if any(division.is_base(name) for name in entries_of(model)):
            with alone(_BUILD_SEED, torch.device("cpu")):
                base = name_of_base(self._model(), division)
            assert base is not None
            parameters[base] = np.empty(0, np.float32)
            buffers.add(base)  # no gradient moves it
        return Initial(parameters, frozenset(buffers))

    def train(self, parameters: Arrays, work: Work, client: Client) -> Trained:
        """See `Task`.

        Raises:
            ConfigError: the client has no examples, or the algorithm is none of `ALGORITHMS`.
        """
        if work.algorithm not in ALGORITHMS:
            raise ConfigError(f"TorchTask knows {', '.join(ALGORITHMS)}, not {work.algorithm!r}")
        dataset = self._train_data(client)
        if not n_examples(dataset):
            raise ConfigError(f"train_data({client.id!r}) is empty: a client needs at least one example")
        with self._built(parameters, work.state, seed=work.seed) as (model, division):
            division.freeze(model)
            lost = {
                name: parameters[name] - entry.float().cpu().numpy()
                for name, entry in entries_of(model).items()
                if not is_in_numpy(entry) and name in parameters
            }
            trained = ALGORITHMS[work.algorithm](LocalTraining(self._recipe, division, model, dataset, work))
        if trained.parameters is None:
            return trained
        # what the model's own dtype could not hold was not learned away: it stays part of the parameters
        whole = {name: array + lost[name] if name in lost else array for name, array in trained.parameters.items()}
        base = {name: array for name, array in parameters.items() if name.startswith(BASE)}
        return dataclasses.replace(trained, parameters={**whole, **base})

    def evaluate(self, parameters: Arrays, client: Client | None, state: Arrays) -> Evaluated | None:
        """See `Task`."""
        dataset = self._test_data(client)
        if dataset is None or not n_examples(dataset):
            return None
        n = n_examples(dataset)
        totals = MetricSums()
        with self._built(parameters, state, seed=_BUILD_SEED) as (model, _), torch.no_grad():
            model.eval()
            for size, batch in batches_for(model, dataset, split(range(n), PIECE), self._recipe):
                totals.add("loss", Ratio(float(self._recipe.loss(model, batch)) * size, size))
                for name, ratio in (self._metrics(model, batch) if self._metrics else {}).items():
                    totals.add(name, ratio)
        return Evaluated(num_examples=n, metrics=totals.ratios())

    @contextmanager
    def _built(self, parameters: Arrays, state: Arrays, *, seed: int) -> Iterator[tuple[nn.Module, Division]]:
        """Yield the model on its device with the values of `parameters`, and of `state` where they are personal."""
        device = device_named(self._device_name)
        with alone(_BUILD_SEED, device):
            model = self._model().to(device)
            division = self._division_of(model)
            for name, entry in entries_of(model).items():
                if division.is_personal(name):
                    if name in state:
                        copy_into(entry, state[name], name)
                elif division.travels(name) and name in parameters:
                    copy_into(entry, parameters[name], name)
                elif division.travels(name) and entry.is_floating_point():
                    raise InvalidState(f"the model has {name!r}, the given parameters have not")
            torch.manual_seed(seed)
            yield model, division

    def _division_of(self, model: nn.Module) -> Division:
        return Division.of(model, self._personal, self._shared)
