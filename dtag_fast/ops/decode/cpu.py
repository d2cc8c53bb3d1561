"""The compiled CPU backend of a policy's step (csrc/cpu/decoder_kernel.h).

Its oracle is the model itself on the window of each rollout (`models.DecisionTransformer.act`), which the
step equals within rounding: keys and values of earlier tokens while an episode is younger than K steps, after
that the whole window anew but for what depends on one token alone. Chen et al. 2021 (arXiv 2106.01345),
evaluation loop; Zhuang et al. 2024 (arXiv 2405.08740) where returns are predicted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict

import torch
from torch import Tensor

from dtag_fast.ops.compiled_module import _C, why_missing

from .kinds import Rings, StepConfig


def why_not(tensors: Iterable[Tensor]) -> str | None:
    """Why steps over these parameters and rings are not compiled, or None."""
    if why_missing():
        return why_missing()
    for tensor in tensors:
        if tensor.device.type != "cpu":
            return f"it runs on the CPU, a parameter is on {tensor.device}"
        if tensor.dtype != torch.float32:
            return f"it computes in float32, a parameter is {tensor.dtype}"
    return None


class CompiledSteps:
    """Steps of N rollouts, each of any age.

    A rollout's bits depend neither on which others take a step with it nor on the number of threads. The
    precision is the one given here, whatever `torch.set_float32_matmul_precision` says. One thread at a time
    may step.

    Args:
        config: the network. weights: by name, see `repack`. rings: written by each step.
        precision: "fp32"; or "bf16": in the products of the blocks, weights and what they are multiplied
            with are rounded to bf16 and summed in float32. All else is float32: embeddings, heads, attention
            and LayerNorms. Faster than float32 with AMX, and with AVX512-BF16 other than Intel's.
        isa: instruction set, None for the machine's best or DTAG_ISA.

    Raises:
        ValueError: a weight is missing or not of the shape that `config` asks for; an unknown precision.
    """

    def __init__(
        self,
        config: StepConfig,
        weights: Mapping[str, Tensor],
        rings: Rings,
        *,
        precision: str = "fp32",
        isa: str | None = None,
    ):
        slots, d = 3 * config.context_len, config.d_model
        for name, ring, width in (
            ("tokens", rings.tokens, d),
            ("projected", rings.projected, 3 * d),
            *(("kept", ring, 2 * d) for ring in rings.kept),
        ):
            wanted = len(rings.tokens) * slots * width
            if ring.numel() != wanted or not ring.is_contiguous() or ring.dtype != torch.float32:
                raise ValueError(
                    f"rings.{name}: expected {wanted} contiguous float32 numbers, got {tuple(ring.shape)} of "
                    f"{ring.dtype}"
                )
        self.config, self._rings, self.precision = config, rings, precision
        self._steps = _C.Decoder(
            **asdict(config),
            weights=_arrays(weights),
            tokens=rings.tokens.data_ptr(),
            projected=rings.projected.data_ptr(),
            kept=[ring.data_ptr() for ring in rings.kept],
            rollouts=len(rings.tokens),
            precision=precision,
            isa=isa or "",
            threads=torch.get_num_threads,
        )

    @property
    def isa(self) -> str:
        """The instruction set in use."""
        return self._steps.isa

    def repack(self, weights: Mapping[str, Tensor]) -> None:
        """Take the numbers of weights as they are now.

        Args:
            weights: "embed_timestep.weight" (max_timestep, D), "centre" and "half_range" (A,) of the action
                bounds, or neither; "X.weight" and "X.bias" for the linear layers X = embed_state,
                embed_action, embed_return, action_head, return_head (where returns are predicted),
                blocks.I.qkv, .out, .expand, .contract, and for the LayerNorms X = embed_norm, final_norm
                (norm="pre"), blocks.I.norm_1, .norm_2. All are copied but for the table of timesteps, which
                stays where it is and is read there.
        """
        self._steps.repack(_arrays(weights))

    def step(
        self,
        rows: Tensor | None,
        timesteps: Tensor,
        previous_actions: Tensor,
        states: Tensor,
        returns_to_go: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Act.

        Args:
            rows: (R,) int64 rollouts, each at most once; None for 0 .. R - 1.
            timesteps: (R,) int64, t of the present step, one more than at the rollout's last.
            previous_actions: (R, A) executed at t - 1; not read where t = 0.
            states: (R, S) standardised. returns_to_go: (R, 1) scaled; None where they are predicted.
        Returns:
            (R, A) actions, the head's outputs as they are where there are no action bounds; (R, 1) predicted
            scaled returns or None.
        Raises:
            ValueError: a timestep outside the table, a rollout that is not there, a wrong shape.
        """
        c, count = self.config, len(timesteps)
        inputs = {
            "timesteps": _input("timesteps", timesteps, (count,), torch.int64),
            "previous_actions": _input("previous_actions", previous_actions, (count, c.action_dim)),
            "states": _input("states", states, (count, c.state_dim)),
        }
        if rows is not None:
            inputs["rows"] = _input("rows", rows, (count,), torch.int64)
        if not c.predicts_returns:
            inputs["returns"] = _input("returns_to_go", returns_to_go, (count, 1))
        outputs = {"actions": torch.empty(count, c.action_dim)}
        if c.predicts_returns:
            outputs["predicted"] = torch.empty(count, 1)
        self._steps.step(count=count, **{name: x.data_ptr() for name, x in (inputs | outputs).items()})
        return outputs["actions"], outputs.get("predicted")


def _input(name: str, x: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """x in the memory layout that the compiled step reads."""
    if x is None or x.shape != shape or x.dtype != dtype or x.device.type != "cpu":
        got = "None" if x is None else f"{tuple(x.shape)} of {x.dtype} on {x.device}"
        raise ValueError(f"{name}: expected {shape} of {dtype} on the CPU, got {got}")
    return x.contiguous()


def _arrays(weights: Mapping[str, Tensor]) -> dict:
    return {name: weight.detach().contiguous().numpy() for name, weight in weights.items()}
