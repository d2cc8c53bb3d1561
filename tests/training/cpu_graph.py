"""What a CUDA graph does, on the CPU: a list of operators over fixed tensors that can be run again.

Python runs once, while the operators below autograd are written down, those of the backward pass and the
optimizer with them. A replay runs the operators alone and puts each result where the first one was. What
Python would have changed between two calls is frozen in it, as in a CUDA graph.
"""

from contextlib import nullcontext

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Operators whose result or cost hangs on values that a host would have to wait for, or that bring values in.
_HOST = {
    "_local_scalar_dense": "reads a number",
    "item": "reads a number",
    "is_nonzero": "reads a number",
    "equal": "reads a number",
    "nonzero": "has as many rows as there are",
    "masked_select": "has as many rows as there are",
    "_unique2": "has as many rows as there are",
    "lift_fresh": "brings numbers of the host in",
    "lift_fresh_copy": "brings numbers of the host in",
}


class HostAccess(RuntimeError):
    """An operator that a CUDA graph cannot capture, or would freeze."""


class CpuGraph(TorchDispatchMode):
    """The operators that run inside `with graph:`.

    Unlike a capture, they are also carried out; `undo` puts the tensors they changed back.
    """

    def __init__(self):
        super().__init__()
        self.calls = []  # (operator, arguments, keyword arguments, result)
        self._before = {}  # id of a changed tensor -> (it, a copy)
        self._made = set()  # ids of results with memory of their own, which need no copy

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        if name in _HOST:
            raise HostAccess(f"{name} {_HOST[name]}")
        if name.startswith("index") and any(x.dtype == torch.bool for x in _tensors(args[1:2])):
            raise HostAccess(f"{name} with a mask has as many rows as there are")
        for value, argument in zip(args, func._schema.arguments, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                for x in _tensors(value):
                    if id(x) not in self._made:
                        self._before.setdefault(id(x), (x, x.detach().clone()))
        result = func(*args, **kwargs)
        if _makes_tensors(func):
            self._made.update(id(x) for x in _tensors(result))
        self.calls.append((func, args, kwargs, result))
        return result

    @torch.no_grad()
    def undo(self):
        for x, before in reversed(self._before.values()):
            x.copy_(before)

    @torch.no_grad()
    def replay(self):
        for func, args, kwargs, result in self.calls:
            again = func(*args, **kwargs)
            if _makes_tensors(func):
                for x, y in zip(_tensors(result), _tensors(again), strict=True):
                    x.copy_(y)


def _tensors(value):
    return [x for x in tree_leaves(value) if isinstance(x, torch.Tensor)]


def _makes_tensors(func):
    """Whether the results are new, neither views nor what was written to."""
    return all(returned.alias_info is None for returned in func._schema.returns)


class CpuRecorder:
    """Stands in for `capture.GraphRecorder`."""

    def __init__(self, device, generators):
        self._generators = generators

    def side_stream(self):
        return nullcontext()

    def record(self, work):
        states = [generator.get_state() for generator in self._generators]
        graph = CpuGraph()
        try:
            with graph:
                work()
        finally:  # a capture carries nothing out
            graph.undo()
            for generator, state in zip(self._generators, states, strict=True):
                generator.set_state(state)
        return graph.replay

    def recover(self):
        pass


class FailingRecorder(CpuRecorder):
    """Meets an error after the first updates of a capture."""

    def record(self, work):
        def fail():
            work()
            raise RuntimeError("operation not permitted\nwhen stream is capturing")

        return super().record(fail)
