"""A policy and Action Gradient as one function of plain operators: what is exported."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dtag_fast.interop.export.action_gradient import climb
from dtag_fast.interop.export.critic_gradient import WrittenCritic
from dtag_fast.interop.export.operators import TorchOperators, Value
from dtag_fast.interop.export.policies import Acted, WrittenSequencePolicy, act_on_state
from dtag_fast.models.autotuned_decision_transformer import AutotunedDecisionTransformer
from dtag_fast.models.policies import StatePolicy
from dtag_fast.models.sequence import SequenceModel
from dtag_fast.ops.refine.critic import CriticError
from dtag_fast.ops.refine.options import RefineOptions, parse_options
from dtag_fast.ops.refine.program import CriticProgram
from dtag_fast.ops.refine.refiner import Refiner
from dtag_fast.rollout.arguments import check_together
from dtag_fast.rollout.settings import AGSetting
from dtag_fast.training.checkpoint import LoadedCritic, LoadedPolicy


class Input(NamedTuple):
    """An input of the exported function: (batch, *sizes); kind "float", "int" (64 bits) or "bool"."""

    name: str
    kind: str
    sizes: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Acting:
    """What is exported: a policy on raw inputs and, with a setting of steps above 0, Action Gradient.

    Args:
        policy: from `load_policy`, on the CPU.
        critic: a LoadedCritic, an nn.Module as `refine` takes it, or a CriticProgram; needed with steps.
        setting: of Action Gradient; the bounds are those of the policy's actions. No `behaviour`, one start.

    Attributes:
        program: the critic as layers and numbers; None without steps.

    Raises:
        ValueError, TypeError: they do not go together, the setting is one that is not exported, or the critic
            does not lower to a CriticProgram.
    """

    policy: LoadedPolicy
    critic: Any = None
    setting: AGSetting = field(default_factory=AGSetting)
    program: CriticProgram | None = field(init=False, default=None)
    options: RefineOptions = field(init=False, default_factory=RefineOptions)

    def __post_init__(self) -> None:
        if not isinstance(self.policy, LoadedPolicy):
            raise TypeError(
                f"policy: expected a LoadedPolicy, as load_policy gives it, got {type(self.policy).__name__}"
            )
        model, setting = self.policy.model, self.setting
        if not isinstance(model, SequenceModel | StatePolicy):
            raise ValueError(f"policy: {type(model).__name__} cannot be exported; expected a policy")
        if next(model.parameters()).device.type != "cpu":
            raise ValueError('policy: expected it on the CPU; load it with device="cpu"')
        if setting.behaviour is not None:
            raise ValueError("behaviour: it is not exported; give steps and lr alone")
        if setting.starts > 1:
            raise ValueError(
                f"starts: draws of a policy are not exported, got {setting.label}; leave starts out"
            )
        if isinstance(setting.radius, Tensor):
            raise ValueError("radius: one number is exported, got one for each row")
        if setting.is_plain:
            return
        loaded = self.critic if isinstance(self.critic, LoadedCritic) else None
        if self.critic is None or loaded is not None or self.policy.info.discrete_actions is not None:
            check_together(self.policy, loaded, [setting], self.policy.info.env_id or "-")
        names = ("optimizer", "reduce", "gradient", "radius", "select")
        options = parse_options(**{name: getattr(setting, name) for name in names})
        object.__setattr__(self, "options", options)
        critic = self.critic.critic if loaded is not None else self.critic
        object.__setattr__(self, "program", self._program(critic))

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Of the function, in order."""
        info, model = self.policy.info, self.policy.model
        if isinstance(model, StatePolicy):
            return (Input("states", "float", (info.state_dim,)),)
        k = model.config.context_len
        found = [
            Input("states", "float", (k, info.state_dim)),
            Input("actions", "float", (k, info.action_dim)),
        ]
        if not isinstance(model, AutotunedDecisionTransformer):  # it makes its return tokens of the states
            found.append(Input("returns_to_go", "float", (k, 1)))
        return (*found, Input("timesteps", "int", (k,)), Input("mask", "bool", (k,)))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Their names, in order."""
        return ("action", "predicted_return") if self.policy.model.predicts_returns else ("action",)

    def written(self, ops, **inputs: Value) -> tuple[Value, ...]:
        """Outputs for inputs, by name; in whatever operators those are values of."""
        model = self.policy.model
        if isinstance(model, StatePolicy):
            acted = act_on_state(ops, model, inputs["states"])
        else:
            returns = inputs.get("returns_to_go")
            written = WrittenSequencePolicy(ops, model)
            acted = written.act(
                inputs["states"], inputs["actions"], returns, inputs["timesteps"], inputs["mask"]
            )
        actions = acted.actions if self.program is None else self._refined(ops, acted)
        return (actions,) if acted.returns is None else (actions, acted.returns)

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Of the actions, (A,) float32 each."""
        low, high = self.policy.info.action_bounds
        return low.astype(np.float32), high.astype(np.float32)

    def _refined(self, ops, acted: Acted) -> Value:
        low, high = (ops.constant(torch.from_numpy(bound)) for bound in self.bounds)
        critic = WrittenCritic(ops, self.program, acted.state, self.options.reduce)
        return climb(
            ops, critic, acted.actions, self.options, self.setting.steps, float(self.setting.lr), low, high
        )

    def _program(self, critic: Any) -> CriticProgram:
        info = self.policy.info
        refiner = Refiner(critic, bounds=None, reduce=self.options.reduce)
        try:
            program = refiner.binding(info.state_dim, info.action_dim, torch.device("cpu")).program
        except CriticError as error:
            raise ValueError(
                f"{error} (the policy has S = {info.state_dim}, A = {info.action_dim})"
            ) from None
        if not isinstance(program, CriticProgram):
            raise ValueError(f"critic: its gradient cannot be written out, as {program}")
        return program


class ActingModule(nn.Module):
    """An `Acting` as a module, for torch.export: inputs in the order of `Acting.inputs`, outputs as a tuple.

    What torch.export makes of it needs neither dtag_fast nor autograd where it is loaded. The policy's model
    is a part of it and is left as it is.
    """

    def __init__(self, acting: Acting):
        super().__init__()
        self.acting, self.model = acting, acting.policy.model
        if acting.program is not None:
            members = []
            for m, layers in enumerate(acting.program.members):
                members.append(tuple(self._registered(f"critic_{m}_{i}", x) for i, x in enumerate(layers)))
            program = replace(acting.program, members=tuple(members))
            self.acting = copy(acting)
            object.__setattr__(self.acting, "program", program)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        names = (one.name for one in self.acting.inputs)
        return self.acting.written(TorchOperators(inputs[0].dtype), **dict(zip(names, inputs, strict=True)))

    def _registered(self, name: str, layer):
        """A layer whose tensors are buffers of this module."""
        tensors = {key: getattr(layer, key, None) for key in ("weight", "bias")}
        tensors = {key: tensor.clone() for key, tensor in tensors.items() if tensor is not None}
        for key, tensor in tensors.items():
            self.register_buffer(f"{name}_{key}", tensor)
        return replace(layer, **tensors) if tensors else layer
