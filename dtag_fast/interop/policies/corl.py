"""CORL's dt.py: pre-norm blocks with GELU around `nn.MultiheadAttention`, tokens (R, s, a).

Short windows are padded at their end. The causal mask has 3 K rows, which tells K. Actions are
max_action * tanh. dt_checkpoint.pt holds the statistics of the states.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from dtag_fast.interop.policies.key_map import KeyMap
from dtag_fast.interop.policies.layouts import Said, Settings, Weights, attribute, steps_of_mask
from dtag_fast.interop.policies.source import PolicySource

NAME = "CORL"
_MARK, _MASK = "blocks.0.attention.in_proj_weight", "blocks.0.causal_mask"
_OURS = "transformer.blocks.{n}."
_KEYS = KeyMap(
    {
        "blocks.{n}.norm1.{p}": _OURS + "norm_1.{p}",
        "blocks.{n}.norm2.{p}": _OURS + "norm_2.{p}",
        "blocks.{n}.attention.in_proj_weight": _OURS + "attention.qkv.weight",
        "blocks.{n}.attention.in_proj_bias": _OURS + "attention.qkv.bias",
        "blocks.{n}.attention.out_proj.{p}": _OURS + "attention.out.{p}",
        "blocks.{n}.mlp.0.{p}": _OURS + "expand.{p}",
        "blocks.{n}.mlp.2.{p}": _OURS + "contract.{p}",
        "blocks.{n}.causal_mask": None,
        "timestep_emb.weight": "embed_timestep.weight",
        "return_emb.{p}": "embed_return.{p}",
        "state_emb.{p}": "embed_state.{p}",
        "action_emb.{p}": "embed_action.{p}",
        "emb_norm.{p}": "embed_norm.{p}",
        "out_norm.{p}": "transformer.final_norm.{p}",
        "action_head.0.{p}": "action_head.{p}",
    },
    NAME,
)


def matches(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are its names."""
    return _MARK in tensors and "timestep_emb.weight" in tensors


def read(tensors: Mapping[str, Tensor], source: PolicySource, said: Said) -> Weights:
    """See `Layout`."""
    settings = Settings(said)
    settings.take_attention(
        attribute(source.module, "blocks.0.attention.num_heads"), steps_of_mask(tensors, _MASK)
    )
    settings.expect_gelu(NAME)
    found = attribute(source.module, "max_action")
    max_action = settings.choose("max_action", None if found is None else float(found), 1.0)
    mapped, _ = _KEYS.apply(tensors)
    fixed = {"norm": "pre", "activation": "gelu", "padding": "right"}
    return Weights("dt", NAME, mapped, settings.values | fixed, settings.notes, max_action)
