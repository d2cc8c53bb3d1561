"""Updates of IQL in one call of the compiled core each, on the CPU (csrc/cpu/iql_update.h).

Its oracle is `IQL.update` operator by operator, which it follows within rounding: same order, same formulas,
the same tensors of parameters and of the optimizers' states, in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dtag_fast.algorithms import parallel
from dtag_fast.data import Transitions
from dtag_fast.models.policies import LOG_STD_RANGE
from dtag_fast.ops.compiled_module import _C, why_missing

if TYPE_CHECKING:
    from dtag_fast.algorithms.iql import IQL

METRICS = ("value_loss", "value", "policy_loss", "critic_loss", "q")


class CompiledIQL:
    """The updates of one learner.

    The learner's first update is made by operators: it allocates the optimizers' states.

    Args:
        learner: its settings and tensors. margin, max_weight: of the policy's loss.
        isa: instruction set, "" for the machine's best or DTAG_ISA.
    """

    def __init__(self, learner: IQL, margin: float, max_weight: float, isa: str = ""):
        self._learner, self._margin, self._max_weight, self._isa = learner, margin, max_weight, isa
        self._settled = self._why_settings()
        self._key: tuple[int, ...] = ()
        self._update: Any = None

    def why_not(self) -> str | None:
        """Why the next update is not made here, or None."""
        reason = self.why_never()
        if reason is None and not self._learner.optimizers["critic"].state:
            return "the first update allocates the optimizers' states"
        return reason

    def why_never(self) -> str | None:
        """Why no update is made here as things stand, or None."""
        if self._settled is not None:
            return self._settled
        if self._learner.stack is not None:
            return "seeds are stacked"
        if torch.is_autocast_enabled("cpu"):
            return "autocast chooses the type of each operator"
        if parallel.world() > 1:
            return "gradients are exchanged with other processes"
        for network in self._learner.modules.values():
            if network._compiled_call_impl is not None:
                return "its networks are run by torch.compile"
        return None

    def _why_settings(self) -> str | None:
        """What of the settings or the machine is against it, once and for all."""
        learner, c = self._learner, self._learner.config
        if why_missing():
            return why_missing()
        if learner.device.type != "cpu":
            return f"it runs on the CPU, the networks are on {learner.device}"
        if learner.capturable:
            return "the updates are made to be captured"
        if c.layer_norm:
            return "LayerNorm is not compiled"
        if c.policy and c.policy_dropout:
            return "dropout is not compiled"
        return None

    def __call__(self, batch: Transitions, policy_lr: float) -> dict[str, Tensor]:
        """One update; the metrics of `IQL.update`. policy_lr: of this update."""
        tensors = self._tensors()
        key = (len(batch.states), *[t.data_ptr() for group in tensors.values() for t in group])
        if key != self._key:
            self._key, self._update = key, self._prepared(len(batch.states), tensors)
        batch = [x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous() for x in batch]
        numbers = self._update.run([(x.data_ptr(), x.stride(0)) for x in batch], policy_lr)
        # Who keeps things made from the parameters, as refine does, looks at their versions.
        torch.autograd.graph.increment_version(self._parameters)
        values = zip(METRICS, torch.tensor(numbers).unbind(), strict=True)
        return {name: value for name, value in values if name != "policy_loss" or self._learner.config.policy}

    def _networks(self) -> dict[str, Sequence[Sequence[nn.Linear]]]:
        """Linear layers by network and member."""
        learner = self._learner
        found = {
            "critic": [_linear(member) for member in learner.critic.members],
            "target": [_linear(member) for member in learner.target.members],
            "value": [_linear(learner.value.net)],
        }
        if learner.config.policy:
            found["model"] = [[*learner.policy.layers, learner.policy.mean_head]]
        return found

    def _tensors(self) -> dict[str, list[Tensor]]:
        """Parameters, moments and counts, by name of a network and what they are."""
        learner, tensors = self._learner, {}
        for name, members in self._networks().items():
            parameters = [p for layers in members for layer in layers for p in (layer.weight, layer.bias)]
            if name == "model":
                parameters.append(learner.policy.action_log_std)
            tensors[name] = parameters
            if name != "target":
                state = learner.optimizers[name].state
                for part in ("exp_avg", "exp_avg_sq", "step"):
                    tensors[f"{name} {part}"] = [state[p][part] for p in parameters]
        return tensors

    def _prepared(self, rows: int, tensors: dict[str, list[Tensor]]):
        learner, c, data = self._learner, self._learner.config, self._learner.data
        for name, group in tensors.items():
            for tensor in group:
                if not tensor.is_contiguous() or tensor.dtype != torch.float32 or not tensor.is_cpu:
                    got = f"{tensor.dtype} on {tensor.device}"
                    raise ValueError(f"{name}: expected contiguous float32 on the CPU, got {got}")
        self._parameters = [p for name in self._networks() for p in tensors[name]]
        networks = {
            name: self._network(name, members, tensors)
            for name, members in self._networks().items()
            if name != "target"
        }
        policy = networks.get("model")
        if policy is not None:
            bounds, reach = learner.policy.action_bounds, 1 - self._margin
            centre, half = bounds.centre, bounds.half_range
            policy |= {"centre": centre.tolist(), "half_range": half.tolist()}
            policy |= {"low": (centre - half * reach).tolist(), "high": (centre + half * reach).tolist()}
            policy |= dict(zip(("log_std_low", "log_std_high"), LOG_STD_RANGE, strict=True))
        normalizer = learner.critic.normalizer
        return _C.IqlUpdate(
            settings={
                "rows": rows,
                "action_dim": data.action_dim,
                "expectile": c.expectile,
                "polyak": c.polyak,
                "lr": c.lr,
                "inverse_temperature": c.inverse_temperature,
                "max_weight": self._max_weight,
                "mean": normalizer.mean.tolist(),
                "std": normalizer.std.tolist(),
            },
            critic=networks["critic"],
            value=networks["value"],
            policy=policy,
            activation=c.activation,
            isa=self._isa,
            threads=torch.get_num_threads,
        )

    def _network(
        self, name: str, members: Sequence[Sequence[nn.Linear]], tensors: dict[str, list[Tensor]]
    ) -> dict:
        parts = [_addresses(tensors[key]) for key in (name, f"{name} exp_avg", f"{name} exp_avg_sq")]
        layers = sum(2 * len(member) for member in members)
        return {
            "widths": [members[0][0].in_features, *[layer.out_features for layer in members[0]]],
            "members": len(members),
            "parameters": parts[0][:layers],
            "first": parts[1][:layers],
            "second": parts[2][:layers],
            "extra": [part[layers] for part in parts] if len(parts[0]) > layers else [],
            "counts": _addresses(tensors[f"{name} step"]),
            "followers": _addresses(tensors["target"]) if name == "critic" else [],
        }


def _addresses(tensors: list[Tensor]) -> list[int]:
    return [t.data_ptr() for t in tensors]


def _linear(network: nn.Sequential) -> list[nn.Linear]:
    return [module for module in network if isinstance(module, nn.Linear)]
