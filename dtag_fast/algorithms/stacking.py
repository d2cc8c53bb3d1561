"""Several seeds of one configuration as one learner, whose parameters are stacks of theirs.

An optimizer step and a target average are element by element, so that on parameters (N, ...) they are those
of N learners in the launches of one. What is not, losses and their gradients, is vectorised over the first
axis by `torch.vmap` (`Algorithm.each`), and norms are taken per seed. Every seed's random numbers come from
its own generator. Each seed is then trained as it would be alone, within rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer

from dtag_fast.algorithms.base import Algorithm
from dtag_fast.algorithms.lamb import Lamb
from dtag_fast.ops.per_seed import Generators


class Stack:
    """One learner in the place of several, which it leaves as views of its own parameters.

    Parameters and extra tensors of the several are parts of the stacks from then on: loading into one of them
    changes the stack, and an update of the stack all of them. Optimizers know nothing of that and are carried
    over by `take_optimizers` and `give_back`.

    Args:
        learners: N of one algorithm, config, dataset and device; they differ in their seeds.

    Attributes:
        learner: what trains all of them. Its `update` takes batches (N, B, ...) and gives metrics (N,).
    """

    def __init__(self, learners: Sequence[Algorithm]):
        self._learners = list(learners)
        first = self._learners[0]
        self.learner = type(first)(
            first.config, first.data, device=first.device, capturable=first.capturable, critic=first.trained
        )
        for stack, parts in zip(
            _trained(self.learner), zip(*map(_trained, learners), strict=True), strict=True
        ):
            stack.data = torch.stack([part.data for part in parts])
            for part, data in zip(parts, stack.data.unbind(), strict=True):
                part.data = data
        for optimizer in self.learner.optimizers.values():
            if isinstance(optimizer, Lamb):
                optimizer.stacked = True
        self.learner.generator = Generators([learner.generator for learner in learners])
        self.learner.stack = self
        self._networks = _Networks(self.learner.modules)
        self._parameters = dict(self._networks.named_parameters())

    def each(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """`fn` for all seeds at once, see `Algorithm.each`."""

        def of_one(parameters: dict[str, Tensor], *args: Any) -> Any:
            return functional_call(self._networks, parameters, (fn, *args), tie_weights=False)

        def of_all(*args: Any) -> Any:
            return torch.vmap(of_one, randomness="error")(self._parameters, *args)

        return of_all

    def take_optimizers(self) -> None:
        """Go on from the counts and the optimizers of the several, which all have made as many updates."""
        first = self._learners[0]
        self.learner.updates_done = first.updates_done
        self.learner.schedule_step += first.updates_done - self.learner.schedule_step
        for own, theirs in self._optimizers():
            _join(own, theirs)

    def give_counts(self) -> None:
        """Give the several the number of updates."""
        for learner in self._learners:
            learner.updates_done = self.learner.updates_done
            learner.schedule_step += learner.updates_done - learner.schedule_step

    def give_back(self) -> None:
        """Give the several the counts and, as views, the state of the optimizers."""
        self.give_counts()
        for own, theirs in self._optimizers():
            for i, optimizer in enumerate(theirs):
                _part(own, i, optimizer)

    def _optimizers(self) -> list[tuple[Optimizer, list[Optimizer]]]:
        named = self.learner.optimizers.items()
        return [(own, [learner.optimizers[name] for learner in self._learners]) for name, own in named]


class _Networks(nn.Module):
    """All networks of a learner under one roof, where their parameters can be exchanged for a call."""

    def __init__(self, modules: dict[str, nn.Module]):
        super().__init__()
        self.networks = nn.ModuleDict(modules)

    def forward(self, fn: Callable[..., Any], *args: Any) -> Any:
        return fn(*args)


def _trained(learner: Algorithm) -> list[Tensor]:
    """All that differs between seeds: parameters, frozen and averaged ones too, and extra tensors."""
    parameters = [p for module in learner.modules.values() for p in module.parameters()]
    return parameters + list(learner.extra_tensors().values())


def _join(own: Optimizer, theirs: list[Optimizer]) -> None:
    """Stack the state of several optimizers, but for the counts of steps, which are the same in all."""
    for group, *groups in zip(own.param_groups, *(o.param_groups for o in theirs), strict=True):
        if "step" in group:
            group["step"] = _copied(groups[0]["step"])
        for p, *parts in zip(group["params"], *(g["params"] for g in groups), strict=True):
            states = [o.state.get(part) for o, part in zip(theirs, parts, strict=True)]
            if not states[0]:
                continue
            own.state[p] = {
                key: torch.stack([state[key] for state in states]) if key != "step" else _copied(value)
                for key, value in states[0].items()
            }


def _part(own: Optimizer, i: int, other: Optimizer) -> None:
    """Let `other` have the part of seed i in the state of `own`."""
    for group, target in zip(own.param_groups, other.param_groups, strict=True):
        target.update({key: _copied(value) for key, value in group.items() if key != "params"})
        for p, part in zip(group["params"], target["params"], strict=True):
            if state := own.state.get(p):
                other.state[part] = {
                    key: value[i] if key != "step" else _copied(value) for key, value in state.items()
                }


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
