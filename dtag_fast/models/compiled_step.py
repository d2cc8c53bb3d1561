"""What the compiled step is told about a model: sizes, and parameters under the names it has for them."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dtag_fast.models.sequence import NoTimesteps, SequenceModel
from dtag_fast.ops import decode


def step_config(model: SequenceModel) -> decode.StepConfig:
    c = model.config
    return decode.StepConfig(
        state_dim=c.state_dim,
        action_dim=c.action_dim,
        context_len=c.context_len,
        max_timestep=c.max_timestep,
        d_model=c.d_model,
        n_head=c.n_head,
        n_layer=c.n_layer,
        norm=c.norm,
        activation=c.activation,
        predicts_returns=model.predicts_returns,
        eps=model.embed_norm.eps,
    )


def step_weights(model: SequenceModel) -> dict[str, Tensor]:
    """The parameters under the names that `ops.decode` has for them."""
    layers: dict[str, nn.Module] = {
        name: getattr(model, name)
        for name in ("embed_state", "embed_action", "embed_return", "embed_norm", "action_head")
    }
    if model.predicts_returns:
        layers["return_head"] = model.return_head
    if model.config.norm == "pre":
        layers["final_norm"] = model.transformer.final_norm
    for i, block in enumerate(model.transformer.blocks):
        heads = block.attention
        named = (heads.qkv, heads.out, block.expand, block.contract, block.norm_1, block.norm_2)
        names = ("qkv", "out", "expand", "contract", "norm_1", "norm_2")
        layers |= {f"blocks.{i}.{name}": layer for name, layer in zip(names, named, strict=True)}
    weights = {
        f"{name}.{kind}": getattr(layer, kind)
        for name, layer in layers.items()
        for kind in ("weight", "bias")
    }
    bounds, timesteps = model.action_bounds, model.embed_timestep
    if bounds is not None:
        weights |= {"centre": bounds.centre, "half_range": bounds.half_range}
    table = timesteps.table() if isinstance(timesteps, NoTimesteps) else timesteps.weight
    return weights | {"embed_timestep.weight": table}


def with_deviations(
    config: decode.StepConfig, weights: dict[str, Tensor], head: nn.Linear
) -> tuple[decode.StepConfig, dict[str, Tensor]]:
    """The same step with two heads: its actions are (R, 2A), the action head's outputs and those of `head`.

    Both are as they are, without tanh and bounds. Previous actions are (R, 2A) too, whose second half is not
    looked at.
    """
    kept = {name: x for name, x in weights.items() if name not in ("centre", "half_range")}
    both = {
        "embed_action.weight": F.pad(weights["embed_action.weight"], (0, config.action_dim)),
        "action_head.weight": torch.cat((weights["action_head.weight"], head.weight)),
        "action_head.bias": torch.cat((weights["action_head.bias"], head.bias)),
    }
    return dataclasses.replace(config, action_dim=2 * config.action_dim), kept | both
