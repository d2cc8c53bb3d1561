"""Files in d3rlpy's layout, made without it."""

from __future__ import annotations

import io
import json
import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

S, A = 4, 2
HIDDEN = (8, 6)


def states(members: int = 2, seed: int = 0) -> dict[str, Any]:
    """What `save_model` writes of an algorithm with the default encoder, without its optimizers."""
    generator = torch.Generator().manual_seed(seed)

    def layers(prefix: str, inputs: int, head: str, outputs: int) -> dict[str, Tensor]:
        found = {}
        names = [f"_encoder._layers.{2 * i}" for i in range(len(HIDDEN))] + [head]
        widths = (inputs, *HIDDEN, outputs)
        for name, (n, m) in zip(names, pairwise(widths), strict=True):
            found[f"{prefix}{name}.weight"] = torch.randn(m, n, generator=generator)
            found[f"{prefix}{name}.bias"] = torch.randn(m, generator=generator)
        return found

    def ensemble() -> dict[str, Tensor]:
        return {k: v for i in range(members) for k, v in layers(f"{i}.", S + A, "_fc", 1).items()}

    return {"policy": layers("", S, "_mu", A), "q_funcs": ensemble(), "targ_q_funcs": ensemble()}


def part(kind: str, **params: Any) -> dict[str, Any]:
    return {"type": kind, "params": params}


def config(algorithm: str = "sac", **params: Any) -> dict[str, Any]:
    """The configuration of a `.d3` file, as far as it concerns the critic."""
    parts = {
        "observation_scaler": part("none"),
        "action_scaler": part("none"),
        "reward_scaler": part("none"),
        "critic_encoder_factory": part("default", activation="relu", use_batch_norm=False, dropout_rate=None),
        "q_func_factory": part("mean", share_encoder=False),
    }
    return {"observation_shape": [S], "action_size": A, "config": part(algorithm, **(parts | params))}


def saved(value: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def write_d3(path: Path, held: dict[str, Any] | None = None, written: Any = None) -> Path:
    """A `.d3` file of state dicts and a configuration."""
    described = config() if written is None else written
    text = described if isinstance(described, str) else json.dumps(described)
    held = states() if held is None else held
    path.write_bytes(pickle.dumps({"torch": saved(held), "config": text, "version": "2.8.1"}))
    return path


def q_by_hand(q_funcs: dict[str, Tensor], member: int, x: Tensor) -> Tensor:
    """(B, 1) of the default encoder: three products and two ReLUs."""
    for name in ("_encoder._layers.0", "_encoder._layers.2", "_fc"):
        x = nn.functional.linear(x, q_funcs[f"{member}.{name}.weight"], q_funcs[f"{member}.{name}.bias"])
        x = x if name == "_fc" else x.relu()
    return x
