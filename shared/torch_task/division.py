"""Which entries of a model travel, which stay on the client, and which never change: said by name patterns.

* `personal` entries stay on the client, in its state, and are trained there: the head (FedPer, Arivazhagan et al.,
  arXiv 1912.00818; FedRep, Collins et al., ICML 2021, arXiv 2102.07078), or the norm layers (FedBN, Li et al., ICLR
  2021, arXiv 2102.07623).
* `shared` patterns, where there are any, name all that travels: adapters, say. What is neither shared nor personal is
  the *base*: it stays as `model` has built it, and is frozen. It must be the same everywhere, or the adapters of two
  devices mean different things. So its digest travels, as the name of an empty entry: a device with another base is
  refused before it trains, as one with another model is.

A pattern is a name with `*`, `?` and `[...]`, as in a shell: `head.*`, `*lora_*`.
"""

import difflib
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from glob import escape
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from shared.errors import ConfigError
from shared.torch_task.arrays import entries_of

__all__ = ["BASE", "Division", "Patterns", "checked_patterns", "name_of_base", "norm_layers"]

Patterns: TypeAlias = Sequence[str] | Callable[[nn.Module], Sequence[str]]
"""Name patterns, or a function that returns them for a model, such as `norm_layers`."""

BASE = "~base.sha256."
"""Begins the name of the empty entry that names the base by its digest."""
_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
N_NEAREST = 3


@dataclass(frozen=True, slots=True)
class Division:
    """Of one model.

    Args:
        personal: patterns of what stays on the client.
        shared: patterns of what travels; None: all the rest.
    """

    personal: tuple[str, ...] = ()
    shared: tuple[str, ...] | None = None

    @classmethod
    def of(cls, model: nn.Module, personal: Patterns, shared: Patterns | None) -> "Division":
        """Return how a model is divided; `check` says whether it can be.

        Raises:
            ConfigError: a function returns what is no name patterns.
        """
        return cls(
            _resolved("personal", personal, model),
            None if shared is None else _resolved("shared", shared, model),
        )

    def is_personal(self, name: str) -> bool:
        """Return whether an entry stays on the client, and is trained there."""
        return _matches(name, self.personal)

    def travels(self, name: str) -> bool:
        """Return whether an entry is the federation's."""
        return not self.is_personal(name) if self.shared is None else _matches(name, self.shared)

    def is_base(self, name: str) -> bool:
        """Return whether an entry is frozen."""
        return not self.is_personal(name) and not self.travels(name)

    def check(self, model: nn.Module) -> None:
        """Hold the patterns against a model.

        Raises:
            ConfigError: one matches nothing, an entry is claimed twice, nothing would travel, or tied names would part.
        """
        entries = entries_of(model)
        for kind, patterns in (("personal", self.personal), ("shared", self.shared or ())):
            for pattern in patterns:
                if not any(fnmatchcase(name, pattern) for name in entries):
                    hint = f"nearest are {', '.join(_nearest(pattern, entries))}"
                    raise ConfigError(f"{kind} {pattern!r} matches no entry of the model", hint=hint)
        twice = [name for name in entries if self.is_personal(name) and self.travels(name)]
        if twice:
            hint = "let one of the patterns name less"
            raise ConfigError(f"{twice[0]!r} is both personal and shared", hint=hint)
        if not any(self.travels(name) and entry.is_floating_point() for name, entry in entries.items()):
            raise ConfigError("nothing of the model would travel: personal matches all of it, or shared only integers")
        for names in _tied(model):
            parted = [name for name in names if self._place(name) != self._place(names[0])]
            if parted:
                what = f"{names[0]!r} and {parted[0]!r} are one tensor, and only one of them is matched"
                raise ConfigError(what, hint="personal and shared must match both, or neither")

    def freeze(self, model: nn.Module) -> None:
        """Let no gradient reach the base."""
        for name, p in model.named_parameters(remove_duplicate=False):
            if self.is_base(name):
                p.requires_grad_(False)

    def has_frozen_statistics(self, prefix: str) -> bool:
        """Return whether the norm layer of that name keeps its running statistics as they are built."""
        return self.is_base(f"{prefix}.running_mean" if prefix else "running_mean")

    def _place(self, name: str) -> tuple[bool, bool]:
        return self.is_personal(name), self.travels(name)


def norm_layers(model: nn.Module) -> list[str]:
    """Return patterns for all that torch's norm layers hold, statistics included: `personal=norm_layers` is FedBN.

    The paper's are batch norms; instance, group, layer and RMS norms are taken, too.

    Raises:
        ConfigError: there is none.
    """
    names = [name for name, module in model.named_modules() if isinstance(module, _NORMS)]
    if not names:
        raise ConfigError("the model has no norm layer of torch's own", hint="name the entries by patterns")
    return [f"{escape(name)}.*" if name else "*" for name in names]


def checked_patterns(kind: str, patterns: Patterns) -> Patterns:
    """Return patterns as they are.

    Raises:
        ConfigError: they are one string, whose letters would be patterns, or hold what is none.
    """
    if isinstance(patterns, str):
        raise ConfigError(f"{kind} is one string", hint=f"write {kind}=[{patterns!r}]")
    if not callable(patterns):
        given: list[object] = list(patterns)
        wrong = [each for each in given if not isinstance(each, str)]
        if wrong:
            raise ConfigError(f"{kind} holds {wrong[0]!r}, which is no name pattern")
    return patterns


def name_of_base(model: nn.Module, division: Division) -> str | None:
    """Return the base's name, from names, dtypes, shapes and bits of all that it holds; None: there is no base."""
    found = hashlib.sha256()
    n_entries = 0
    for name, entry in entries_of(model).items():
        if division.is_base(name):
            n_entries += 1
            found.update(f"{name} {entry.dtype} {list(entry.shape)}\n".encode())
            found.update(_bits(entry))
    return f"{BASE}{found.hexdigest()[:32]}" if n_entries else None


def _bits(entry: Tensor) -> memoryview:
    return entry.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _resolved(kind: str, patterns: Patterns, model: nn.Module) -> tuple[str, ...]:
    if not callable(patterns):
        return tuple(patterns)
    found: object = patterns(model)
    if isinstance(found, str) or not isinstance(found, Iterable):
        what = f"the function given as {kind} returns {found!r}, and not a list of name patterns"
        raise ConfigError(what, where="TorchTask", hint="let it return ['head.*'], say")
    names = list(found)
    checked_patterns(kind, names)
    return tuple(names)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _tied(model: nn.Module) -> list[list[str]]:
    """Return names of one and the same parameter, where there are several."""
    names: dict[int, list[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(p), []).append(name)
    return [found for found in names.values() if len(found) > 1]


def _nearest(pattern: str, entries: Mapping[str, Tensor]) -> list[str]:
    """Return the names that are most like a pattern, and those of modules with a star."""
    modules = {f"{name.rpartition('.')[0]}.*" for name in entries if "." in name}
    names = [*entries, *sorted(modules)]
    return difflib.get_close_matches(pattern, names, N_NEAREST, cutoff=0.3) or list(entries)[:N_NEAREST]
