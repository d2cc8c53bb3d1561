"""A model of ours out of tensors under our names: its sizes are read off their shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dtag_fast.models.decision_transformer import DecisionTransformer, DecisionTransformerConfig
from dtag_fast.models.online_decision_transformer import (
    OnlineDecisionTransformer,
    OnlineDecisionTransformerConfig,
)
from dtag_fast.models.reinformer import Reinformer, ReinformerConfig
from dtag_fast.models.sequence import SequenceModel
from dtag_fast.training.state_tree import load_named

# algorithm, as `dtag train` names it -> network, config
MODELS = {
    "dt": (DecisionTransformer, DecisionTransformerConfig),
    "reinformer": (Reinformer, ReinformerConfig),
    "odt": (OnlineDecisionTransformer, OnlineDecisionTransformerConfig),
}
_BUFFERS = ("normalizer.", "action_bounds.")  # statistics, which no file of weights holds


def assemble(
    algorithm: str,
    tensors: dict[str, Tensor],
    settings: Mapping[str, Any],
    *,
    state_mean: Tensor | None = None,
    state_std: Tensor | None = None,
    max_action: float = 1.0,
) -> SequenceModel:
    """A network of `algorithm` (a key of `MODELS`) with these weights, in eval mode.

    Args:
        tensors: by the names of its state dict, without statistics.
        settings: fields of its config that shapes do not tell: context_len, n_head, norm, ...
        state_mean, state_std: (S,), or one number for all dimensions; None for 0 and 1.
        max_action: actions are max_action * tanh.
    Raises:
        ValueError: a tensor is missing, foreign or of a shape that does not fit the others.
    """
    network, config_class = MODELS[algorithm]
    sizes = read_sizes(tensors)
    tensors = _with_full_mlps(tensors, sizes["d_model"])
    states, actions = sizes["state_dim"], sizes["action_dim"]
    model = network(
        config_class(**{"timestep_embedding": "embed_timestep.weight" in tensors, **sizes, **settings}),
        _statistics("state_mean", state_mean, states),
        _statistics("state_std", state_std, states),
        [-max_action] * actions,
        [max_action] * actions,
    )
    own = {name: t for name, t in model.state_dict().items() if name.startswith(_BUFFERS)}
    load_named(model, tensors | own, "weights")
    return model.eval()


def read_sizes(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """state_dim, action_dim, d_model, n_layer and, where there is a table, max_timestep.

    Every matrix that a network of these sizes has is known to be there after this, so that sizes from a
    stranger ask for no more memory than the file itself takes.
    """
    d_model, state_dim = _shape(tensors, "embed_state.weight", 2)
    action_dim, _ = _shape(tensors, "action_head.weight", 2)
    blocks = {int(m[1]) for name in tensors if (m := re.match(r"transformer\.blocks\.(\d+)\.", name))}
    if not blocks or blocks != set(range(len(blocks))):
        raise ValueError(f"blocks: expected numbers 0, 1, 2, ... without a gap, got {sorted(blocks)}")
    for n in blocks:
        _expect(tensors, f"transformer.blocks.{n}.attention.qkv.weight", (3 * d_model, d_model))
    sizes = {"state_dim": state_dim, "action_dim": action_dim, "d_model": d_model, "n_layer": len(blocks)}
    if "embed_timestep.weight" in tensors:
        rows, _ = _shape(tensors, "embed_timestep.weight", 2)
        _expect(tensors, "embed_timestep.weight", (rows, d_model))
        sizes["max_timestep"] = rows
    return sizes


def _with_full_mlps(tensors: dict[str, Tensor], d_model: int) -> dict[str, Tensor]:
    """Hidden layers narrower than 4 D are filled up with units of weight 0: relu(0) = gelu(0) = 0, so they
    add nothing.

    Raises:
        ValueError: a wider one.
    """
    filled, full = dict(tensors), 4 * d_model
    for name, tensor in tensors.items():
        if not re.fullmatch(
            r"transformer\.blocks\.\d+\.(expand\.weight|expand\.bias|contract\.weight)", name
        ):
            continue
        axis = 1 if "contract" in name else 0
        width = tensor.shape[axis] if tensor.ndim > axis else 0
        if width > full:
            raise ValueError(
                f"{name}: a hidden layer of {width} units (n_inner), those here have 4 x {d_model} = {full}"
            )
        if 0 < width < full:
            filled[name] = F.pad(
                tensor, (0, full - width) if axis or tensor.ndim == 1 else (0, 0, 0, full - width)
            )
    return filled


def _shape(tensors: Mapping[str, Tensor], name: str, ndim: int) -> tuple[int, ...]:
    if name not in tensors:
        raise ValueError(f"{name}: expected among the weights, no tensor of the source is mapped to it")
    shape = tuple(tensors[name].shape)
    if len(shape) != ndim or 0 in shape:
        raise ValueError(f"{name}: expected {ndim} dimensions that are not empty, got shape {shape}")
    return shape


def _expect(tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> None:
    if _shape(tensors, name, len(shape)) != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {tuple(tensors[name].shape)}")


def _statistics(name: str, value: Any, width: int) -> Tensor | None:
    """(width,) float32."""
    if value is None:
        return None
    size = value.numel() if isinstance(value, Tensor) else np.size(value)
    if size not in (1, width):
        raise ValueError(f"{name}: expected {width} finite numbers or one, got {size}")
    try:
        value = np.array(value, np.float32) if isinstance(value, np.ndarray) else value
        numbers = torch.as_tensor(value, dtype=torch.float32).detach().cpu().reshape(-1)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{name}: expected {width} numbers or one, got {type(value).__name__} ({error})"
        ) from None
    numbers = numbers.expand(width) if numbers.numel() == 1 else numbers
    if not torch.isfinite(numbers).all():
        raise ValueError(f"{name}: expected finite numbers, got {numbers[~torch.isfinite(numbers)][0]}")
    return numbers.clone()
