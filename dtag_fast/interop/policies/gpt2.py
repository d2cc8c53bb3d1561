"""Decision Transformers on GPT-2's blocks: Hugging Face's `DecisionTransformerModel` and kzl's original.

Pre-norm blocks with a LayerNorm after the last, matrices stored as (inputs, outputs). Both add a learned
embedding of the absolute timestep to tokens in the order (R, s, a). kzl removed GPT-2's position embeddings;
Hugging Face's model has the table and looks up its row 0 for every token, which here goes into the bias of
the LayerNorm before the blocks: LN(x) + wpe_0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dtag_fast.interop.policies.key_map import KeyMap
from dtag_fast.interop.policies.layouts import Said, Settings, Weights, attribute
from dtag_fast.interop.policies.source import PolicySource

NAME = "GPT-2 Decision Transformers (Hugging Face, kzl/decision-transformer)"
HUGGING_FACE, KZL = "Hugging Face's DecisionTransformerModel", "kzl/decision-transformer"

_BLOCK = {
    "ln_1.{p}": "norm_1.{p}",
    "attn.c_attn.weight": "attention.qkv.weight.T",
    "attn.c_attn.bias": "attention.qkv.bias",
    "attn.c_proj.weight": "attention.out.weight.T",
    "attn.c_proj.bias": "attention.out.bias",
    "ln_2.{p}": "norm_2.{p}",
    "mlp.c_fc.weight": "expand.weight.T",
    "mlp.c_fc.bias": "expand.bias",
    "mlp.c_proj.weight": "contract.weight.T",
    "mlp.c_proj.bias": "contract.bias",
    "attn.bias": None,  # the causal mask
    "attn.masked_bias": None,  # what is put where it hides
}
_EDGES = {
    "embed_timestep.weight": "embed_timestep.weight",
    "embed_return.{p}": "embed_return.{p}",
    "embed_state.{p}": "embed_state.{p}",
    "embed_action.{p}": "embed_action.{p}",
    "embed_ln.{p}": "embed_norm.{p}",
    "predict_action.0.{p}": "action_head.{p}",
    "predict_state.{p}": None,
    "predict_return.{p}": None,
}
_HEADS = ("predict_state", "predict_return")
_ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "gelu_python": "gelu"}  # those that are exactly ours
_LAYER_NORM_EPS = 1e-5
# fields of a config -> what the transformers library takes where config.json lacks them
_DEFAULTS = {
    "n_head": 1,
    "activation_function": "relu",
    "action_tanh": True,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "layer_norm_epsilon": _LAYER_NORM_EPS,
    "add_cross_attention": False,
    "resid_pdrop": 0.1,
}


def _rules(prefix: str, **more: str | None) -> dict[str, str | None]:
    blocks = {
        f"{prefix}.h.{{n}}.{theirs}": ours and f"transformer.blocks.{{n}}.{ours}"
        for theirs, ours in _BLOCK.items()
    }
    ends = {f"{prefix}.ln_f.{{p}}": "transformer.final_norm.{p}", f"{prefix}.wte.weight": None}
    return blocks | ends | _EDGES | {f"{prefix}.{name}.weight": ours for name, ours in more.items()}


_KEYS = {
    HUGGING_FACE: KeyMap(_rules("encoder", wpe="wpe"), HUGGING_FACE),
    KZL: KeyMap(_rules("transformer"), KZL),
}


def matches(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are the names of one of the two."""
    return _whose(tensors) is not None


def read(tensors: Mapping[str, Tensor], source: PolicySource, said: Said) -> Weights:
    """See `Layout`.

    Raises:
        ValueError: a network that ours can not be exactly; names what it is.
    """
    whose = _whose(tensors)
    config = _config(source, whose)
    mapped, dropped = _KEYS[whose].apply(tensors)
    settings = Settings(said)
    if config is not None:
        _refuse_others(config)
        _agree(config, mapped)
        settings.take("n_head", config["n_head"], None)
        settings.take("activation", _activation(config["activation_function"]), None)
        settings.values["dropout"] = float(config["resid_pdrop"])
        scale = _attention_scale(config, mapped)
    else:
        _refuse_module(source.module)
        settings.take("n_head", attribute(source.module, "transformer.h.0.attn.n_head"), 1)
        settings.take("activation", None, "relu")
        scale = {}
    settings.take("context_len", attribute(source.module, "max_length"), 20)
    settings.dropped(dropped, _HEADS)
    if whose == HUGGING_FACE:
        _fold_positions(mapped)
    _scale_queries(mapped, scale)
    return Weights("dt", whose, mapped, settings.values | {"norm": "pre", "padding": "left"}, settings.notes)


def _whose(tensors: Mapping[str, Tensor]) -> str | None:
    if any(name.startswith("encoder.h.") for name in tensors):
        return HUGGING_FACE
    return KZL if any(name.startswith("transformer.h.") for name in tensors) else None


def _config(source: PolicySource, whose: str) -> dict[str, Any] | None:
    """Hugging Face's config, complete; None for kzl's weights, which come without one."""
    if whose != HUGGING_FACE:
        return None
    if source.config is None:
        raise ValueError(
            f"{source.shown}: weights of {HUGGING_FACE} without its config.json, which tells heads and "
            "activation; give the folder that has both"
        )
    kind = source.config.get("model_type", "decision_transformer")
    if kind != "decision_transformer":
        raise ValueError(f"config.json: model_type: expected decision_transformer, got {kind!r}")
    return _DEFAULTS | source.config


def _refuse_others(config: Mapping[str, Any]) -> None:
    """Refuse what a network of ours can not compute exactly."""
    if config["add_cross_attention"]:
        raise ValueError("add_cross_attention: the network attends to a second sequence; ours have one")
    if not config["action_tanh"]:
        raise ValueError("action_tanh: the network's actions are not bounded; ours end in tanh")
    if config["layer_norm_epsilon"] != _LAYER_NORM_EPS:
        raise ValueError(
            f"layer_norm_epsilon: expected {_LAYER_NORM_EPS}, which ours have, got "
            f"{config['layer_norm_epsilon']!r}"
        )
    if isinstance(config["n_head"], bool) or not isinstance(config["n_head"], int):
        raise ValueError(f"n_head: expected a whole number, got {config['n_head']!r}")
    if not isinstance(config["resid_pdrop"], int | float):
        raise ValueError(f"resid_pdrop: expected a number, got {config['resid_pdrop']!r}")


def _refuse_module(module: Any) -> None:
    """The same of kzl's model in memory, where its GPT-2 tells."""
    name = attribute(module, "transformer.config.activation_function")
    if name not in (None, "relu"):
        raise ValueError(f"activation_function: expected relu, kzl's own, got {name!r}")
    head = attribute(module, "predict_action")
    if head is not None and len(head) != 2:
        raise ValueError("action_tanh: the network's actions are not bounded; ours end in tanh")


def _activation(name: Any) -> str:
    if not isinstance(name, str) or name not in _ACTIVATIONS:
        raise ValueError(
            f"activation_function: expected one of {', '.join(_ACTIVATIONS)}, which ours have exactly, "
            f"got {name!r}"
        )
    return _ACTIVATIONS[name]


def _agree(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Refuse a config that is not of these weights."""
    sizes = {
        "hidden_size": ("embed_state.weight", 0),
        "state_dim": ("embed_state.weight", 1),
        "act_dim": ("action_head.weight", 0),
        "max_ep_len": ("embed_timestep.weight", 0),
    }
    for name, (tensor, axis) in sizes.items():
        shape = tuple(tensors[tensor].shape) if tensor in tensors else ()
        if name in config and len(shape) > axis and config[name] != shape[axis]:
            raise ValueError(f"{name}: config.json has {config[name]!r}, the weights {shape[axis]}")
    blocks = sum(name.endswith("norm_1.weight") for name in tensors)
    if config.get("n_layer", blocks) != blocks:
        raise ValueError(f"n_layer: config.json has {config['n_layer']!r}, the weights {blocks} blocks")


def _attention_scale(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[int, float]:
    """Block -> what its queries are multiplied by, as ours divide q k by sqrt(D/H) alone."""
    width = next((len(t) for name, t in tensors.items() if name == "embed_state.weight"), 0)
    scaled = config["scale_attn_weights"]
    factor = 1.0 if scaled or not config["n_head"] else math.sqrt(width // config["n_head"])
    blocks = range(sum(name.endswith("norm_1.weight") for name in tensors))
    by_layer = config["scale_attn_by_inverse_layer_idx"]
    return {n: factor / (n + 1 if by_layer else 1) for n in blocks}


def _fold_positions(tensors: dict[str, Tensor]) -> None:
    if "wpe" not in tensors:
        raise ValueError(f"encoder.wpe.weight: expected among the weights of {HUGGING_FACE}, it is not there")
    positions, bias = tensors.pop("wpe"), tensors.get("embed_norm.bias")
    if bias is None or positions.ndim != 2 or positions[:1].shape[1:] != bias.shape or not len(positions):
        raise ValueError(
            f"encoder.wpe.weight: expected rows as wide as embed_ln.bias, got shape {tuple(positions.shape)}"
        )
    tensors["embed_norm.bias"] = bias + positions[0]


def _scale_queries(tensors: dict[str, Tensor], scale: Mapping[int, float]) -> None:
    for n, factor in scale.items():
        for kind in ("weight", "bias"):
            packed = tensors.get(f"transformer.blocks.{n}.attention.qkv.{kind}")
            if packed is not None and factor != 1.0:
                packed[: len(packed) // 3] *= factor
