"""nikhilbarhate99/min-decision-transformer: post-norm blocks with GELU, tokens (R, s, a), padding at the end.

Its causal mask has 3 K rows, which tells K.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from dtag_fast.interop.policies.key_map import KeyMap
from dtag_fast.interop.policies.layouts import Said, Settings, Weights, attribute, steps_of_mask
from dtag_fast.interop.policies.source import PolicySource

NAME = "min-decision-transformer"
_MARK, _MASK = "transformer.0.attention.q_net.weight", "transformer.0.attention.mask"
_OURS = "transformer.blocks.{n}."
_KEYS = KeyMap(
    {
        "transformer.{n}.attention.q_net.{p}": _OURS + "attention.q.{p}",
        "transformer.{n}.attention.k_net.{p}": _OURS + "attention.k.{p}",
        "transformer.{n}.attention.v_net.{p}": _OURS + "attention.v.{p}",
        "transformer.{n}.attention.proj_net.{p}": _OURS + "attention.out.{p}",
        "transformer.{n}.attention.mask": None,
        "transformer.{n}.mlp.0.{p}": _OURS + "expand.{p}",
        "transformer.{n}.mlp.2.{p}": _OURS + "contract.{p}",
        "transformer.{n}.ln1.{p}": _OURS + "norm_1.{p}",
        "transformer.{n}.ln2.{p}": _OURS + "norm_2.{p}",
        "embed_timestep.weight": "embed_timestep.weight",
        "embed_rtg.{p}": "embed_return.{p}",
        "embed_state.{p}": "embed_state.{p}",
        "embed_action.{p}": "embed_action.{p}",
        "embed_ln.{p}": "embed_norm.{p}",
        "predict_action.0.{p}": "action_head.{p}",
        "predict_rtg.{p}": None,
        "predict_state.{p}": None,
    },
    NAME,
)


def matches(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are its names."""
    return _MARK in tensors and "embed_rtg.weight" in tensors


def read(tensors: Mapping[str, Tensor], source: PolicySource, said: Said) -> Weights:
    """See `Layout`."""
    settings = Settings(said)
    settings.take_attention(
        attribute(source.module, "transformer.0.attention.n_heads"), steps_of_mask(tensors, _MASK)
    )
    settings.expect_gelu(NAME)
    mapped, dropped = _KEYS.apply(tensors)
    settings.dropped(dropped, ("predict_rtg", "predict_state"))
    fixed = {"norm": "post", "activation": "gelu", "padding": "right"}
    return Weights("dt", NAME, mapped, settings.values | fixed, settings.notes)
