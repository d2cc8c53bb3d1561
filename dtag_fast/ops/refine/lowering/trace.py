"""A critic as a flat graph of ATen operators over (parameters, states, actions)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call, functionalize
from torch.fx.experimental.proxy_tensor import make_fx

from dtag_fast.ops.watch import Slot, slots_of

from ..critic import CriticCall, call, flat_outputs

TRACE_ROWS = 7  # unlike the batch sizes of the probes and of the verification


class NotLowerable(Exception):
    """The critic has no CriticProgram; the message is the reason users read."""


@dataclass(frozen=True)
class Leaves:
    """The parameters and buffers of modules, each once: where they live and their names."""

    slots: tuple[Slot, ...]
    names: tuple[tuple[int, str], ...]  # (number of module, dotted name)

    def tensors(self) -> list[Tensor]:
        return [store[name] for store, name in self.slots]

    def of(self, module: int, values: Sequence[Tensor]) -> dict[str, Tensor]:
        """`values` of one module, by name."""
        return {name: value for (i, name), value in zip(self.names, values, strict=True) if i == module}


def leaves_of(modules: Sequence[nn.Module]) -> Leaves:
    slots, names, seen = [], [], set()
    for key, slot in slots_of(modules).items():
        tensor = slot[0][slot[1]]
        if (key[0], id(tensor)) not in seen:  # tied parameters: functional_call ties them again
            seen.add((key[0], id(tensor)))
            slots.append(slot)
            names.append(key)
    return Leaves(tuple(slots), tuple(names))


def outputs_of(modules, leaves: Leaves, values, how: CriticCall, states, actions) -> list[list[Tensor]]:
    """The raw outputs of every module with other numbers in its leaves."""
    results = []
    for i, (module, style) in enumerate(zip(modules, how.styles, strict=True)):
        named = leaves.of(i, values)
        results.append(
            flat_outputs(call(lambda *x, m=module, n=named: functional_call(m, n, x), style, states, actions))
        )
    return results


def trace(modules: Sequence[nn.Module], leaves: Leaves, how: CriticCall, state_dim: int, action_dim: int):
    """The graph of all modules; its placeholders are the leaves, states and actions, in this order.

    Raises:
        NotLowerable: the forward pass cannot be traced.
    """
    states, actions = (
        torch.linspace(-1, 1, TRACE_ROWS * n, dtype=how.dtype, device=how.device).view(TRACE_ROWS, n)
        for n in (state_dim, action_dim)
    )

    def flattened(values, states, actions):
        return [q for part in outputs_of(modules, leaves, values, how, states, actions) for q in part]

    values = [t.detach() for t in leaves.tensors()]
    try:
        with torch.inference_mode(False), torch.no_grad():
            graph = make_fx(functionalize(flattened))(values, states, actions)
    except Exception as error:  # any failure of tracing is a reason to use the reference
        text = str(error).strip().splitlines()
        raise NotLowerable(
            f"its forward pass cannot be traced ({type(error).__name__}: {text[0] if text else ''})"
        ) from error
    return graph


def training_dropout(modules: Sequence[nn.Module]) -> str | None:
    """The reason that names .eval(), when a Dropout is active."""
    for module in modules:
        for name, part in module.named_modules():
            if isinstance(part, nn.modules.dropout._DropoutNd) and part.training and part.p > 0:
                return f"{type(part).__name__} {name!r} is in training mode; call critic.eval()"
    return None


def graph_of(graph: fx.GraphModule) -> list[fx.Node]:
    return [node for node in graph.graph.nodes if node.op != "output"]
