"""The compiled CPU backend: hands a critic program and its options to `dtag_fast._C`.

Batches of a few rows run one row at a time and skip dead ReLU units; larger ones run as tiles of rows that
stay in the core's caches through all iterations (csrc/cpu/row_kernel.h, tile_kernel.h; the rule between them
is heuristics.h). Under "bf16" the hidden layers' weights are bf16, summed in float32; AVX512-BF16, and AMX in
tiles, also round the numbers they are multiplied with.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dtag_fast.ops.compiled_module import _C, why_missing
from dtag_fast.ops.watch import Seen

from .executor import InfoBuffers, PreparedCall
from .options import RefineOptions
from .plan_arguments import ARRAY_TYPES, call_arguments, plan_settings, prior_arguments
from .program import Activation, CriticProgram, LayerNorm, Linear


def why_not(
    program: CriticProgram | None, options: RefineOptions | None, device: torch.device, precision: str
) -> str | None:
    """Why this backend cannot run, or None: it takes every CriticProgram and every option."""
    if why_missing():
        return why_missing()
    if torch.device(device).type != "cpu":
        return f"it runs on the CPU, the tensors are on {device}"
    if precision not in ("fp32", "bf16"):
        return f"it computes in fp32 or bf16, {precision} was asked for"
    return None


def isa() -> str:
    """The instruction set new executors use: the machine's best, or the one named by DTAG_ISA."""
    return _C.default_isa()


class CpuExecutor:
    """A PreparingExecutor (executor.py) over `_C.Plan`.

    Args:
        program, options, precision, steps, lr, scale, prior_mean, prior_weight: as executor.py says.
        isa: instruction set, None for `isa()`.
        kernel: "rows" or "tiles" to use that kernel for every batch size, None for the rule.

    Raises:
        ValueError: for an unknown or unavailable instruction set, or a member number outside the ensemble.
    """

    name = "cpu"

    def __init__(
        self,
        program: CriticProgram,
        options: RefineOptions,
        precision: str = "fp32",
        steps: int = 10,
        lr: float = 0.03,
        scale: float | None = None,
        prior_mean: float = 0.0,
        prior_weight: float = 0.0,
        *,
        isa: str | None = None,
        kernel: str | None = None,
    ) -> None:
        settings, self._member = plan_settings(program, options)
        bounded = options.low is not None
        self._plan = _C.Plan(
            state_dim=program.state_dim,
            action_dim=program.action_dim,
            members=self._members(program),
            isa=isa or "",
            precision=precision,
            low=options.low.tolist() if bounded else [],
            high=options.high.tolist() if bounded else [],
            steps=steps,
            lr=lr,
            scale=1.0 if scale is None else scale,
            prior_mean=prior_mean,
            prior_weight=prior_weight,
            threads=torch.get_num_threads,
            kernel=kernel or "",
            **settings,
        )

    @property
    def isa(self) -> str:
        """The instruction set in use."""
        return self._plan.isa

    def kernel_for(self, rows: int, steps: int) -> str:
        """The kernel that a call of `rows` states x candidates takes: "rows" or "tiles"."""
        return self._plan.kernel_for(rows, steps, torch.get_num_threads())

    def describe_call(self, states: int, candidates: int, steps: int) -> tuple[str, list[str]]:
        """See Executor.describe_call."""
        kernel = self.kernel_for(states * candidates, steps)
        how = "one row at a time" if kernel == "rows" else "tiles of rows"
        return f"{how}, {self.isa}", []

    def repack(self, program: CriticProgram) -> None:
        """Take the new numbers of a program of the same structure."""
        self._plan.repack(self._members(program))

    def run(
        self,
        states: Tensor,
        actions: Tensor,
        out: Tensor,
        *,
        steps: int | Tensor,
        lr: float | Tensor,
        scale: float | Tensor | None = None,
        radius: Tensor | None = None,
        variant: Tensor | None = None,
        prior_mean: float | Tensor = 0.0,
        prior_weight: float | Tensor = 0.0,
        info: InfoBuffers | None,
    ) -> None:
        """See Executor.run."""
        most = max(int(steps.max()), 0) if isinstance(steps, Tensor) else steps
        call = call_arguments(states, actions, out, steps, most, lr, scale, radius, variant, info)
        self._plan.run(**call, **prior_arguments(prior_mean, prior_weight))

    def prepare_call(
        self,
        states_shape: Sequence[int],
        actions_shape: Sequence[int],
        seen: Seen,
        within_one: bool,
        known: PreparedCall | None,
    ) -> PreparedCall | None:
        """See PreparingExecutor.prepare_call."""
        return _C.prepare_call(
            plan=self._plan,
            **ARRAY_TYPES,
            states_shape=states_shape,
            actions_shape=actions_shape,
            **seen._asdict(),
            within_one=within_one,
            known=known,
        )

    def _members(self, program: CriticProgram) -> list[list[tuple]]:
        members = program.members if self._member is None else (program.members[self._member],)
        return [[_layer(layer) for layer in layers] for layers in members]


def _layer(layer: Linear | LayerNorm | Activation) -> tuple:
    if isinstance(layer, Activation):
        return ("activation", layer.kind, list(layer.params))
    weight, bias = (None if t is None else _array(t) for t in (layer.weight, layer.bias))
    return ("linear", weight, bias) if isinstance(layer, Linear) else ("norm", weight, bias, layer.eps)


def _array(tensor: Tensor):
    return tensor.detach().to(device="cpu", dtype=torch.float32).contiguous().numpy()
