"""Where a critic's numbers lie for the Triton kernel, and the structure the kernel is compiled for.

The kernel sees a member as stages: a Linear or LayerNorm followed by its activations. The last Linear, of
width 1, is a vector `out`. Widths are padded with zeros to whole column blocks, so that inner loops need no
masks. Layers of the first stage are split into columns of the state, used once per call, and of the action.

    vectors   float32: per member  state weights (W, S), action weights (W, A), out (W), out bias,
                       and per stage a bias (W), or the weight and bias (2, W) of a LayerNorm
    matrices  in the precision of the products: per member the hidden Linear weights (W_out, W_in)
    floats    float32 scratch, columns of a tile of rows: per member W1_s s + b1; what LayerNorm needs
    operands  scratch in the precision of the products: per stage its values h, and the slopes of its
              activations, which the way back overwrites with dQ/dz
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from dtag_fast.ops.triton_support import power_of_two

from .program import Activation, CriticProgram, Layer, LayerNorm, Linear
from .triton_tiles import STATE_BLOCK, column_block, padded

ALIGNMENT = 32  # elements; parts begin at whole sectors of memory
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Stage:
    """A Linear or LayerNorm and the activations after it. Offsets in scratch count columns of a tile."""

    kind: str  # "first" (a Linear of state and action), "linear", "norm"
    inner: int  # padded width of its inputs, 0 for "first"
    outer: int  # padded width
    width: int
    block: int  # columns taken at once; divides `outer`
    activations: tuple[tuple[str, tuple[float, ...]], ...]
    eps: float  # of LayerNorm
    vectors: int  # offset of its bias, or of LayerNorm's weight and bias
    matrix: int  # offset of its weight in `matrices`, of a "linear"
    values: int  # its h: in `floats` when a LayerNorm follows, else in `operands`; -1 at the last stage
    slopes: int  # in `operands`
    before_norm: bool
    normalised: int  # "norm": x_hat and after it one column of 1 / sqrt(var + eps), in `floats`


@dataclass(frozen=True)
class Group:
    """Consecutive members of one structure; the kernel loops over them."""

    first: int  # number of its first member
    count: int
    stages: tuple[Stage, ...]
    base: int  # columns of W1_s s + b1 in `floats`; member after member
    state_weights: int
    action_weights: int
    out: int
    out_bias: int
    vectors_stride: int  # from member to member
    matrices_stride: int


@dataclass(frozen=True)
class Structure:
    """Everything about a program but its numbers: the kernel is compiled for it."""

    state: int
    state_padded: int
    action: int
    action_padded: int
    reduce: str  # "min", "max", "mean", "mixed"
    members: int
    groups: tuple[Group, ...]
    floats: int  # columns of scratch per row
    operands: int


@dataclass(frozen=True)
class Layout:
    """A structure and the sizes of its packed weights."""

    structure: Structure
    vectors: int
    matrices: int


class _Space:
    """Hands out offsets."""

    def __init__(self, used: int = 0, alignment: int = ALIGNMENT) -> None:
        self.used, self._alignment = used, alignment

    def take(self, size: int) -> int:
        start, self.used = self.used, padded(self.used + size, self._alignment)
        return start


def members_of(program: CriticProgram, reduce: str | int) -> tuple[tuple[Layer, ...], ...]:
    """The members that take part: all, or the one that `reduce` names."""
    return (program.members[reduce],) if isinstance(reduce, int) else program.members


def layout_of(program: CriticProgram, reduce: str | int, precision: str) -> Layout:
    """The layout of a program under its reduction ("min", "max", "mean", "mixed" or a member's number)."""
    sizes = {
        "state": program.state_dim,
        "state_padded": padded(program.state_dim, STATE_BLOCK),
        "action": program.action_dim,
        "action_padded": power_of_two(program.action_dim),
    }
    forms = [_form(layers, precision, program.action_dim) for layers in members_of(program, reduce)]
    runs = [(form, len(list(same))) for form, same in groupby(forms)]
    bases = sum(count * form[0].outer for form, count in runs)
    vectors, matrices, floats, operands = _Space(), _Space(), bases, 1
    groups: list[Group] = []
    first = base = 0
    for form, count in runs:
        scratch = _Space(bases, 1), _Space(0, 1)
        group = _group(form, first, count, base, sizes, vectors, matrices, *scratch)
        groups.append(group)
        first, base = first + count, base + count * group.stages[0].outer
        floats, operands = max(floats, scratch[0].used), max(operands, scratch[1].used)
    structure = Structure(
        **sizes,
        reduce="min" if isinstance(reduce, int) else reduce,
        members=first,
        groups=tuple(groups),
        floats=floats,
        operands=operands,
    )
    return Layout(structure, vectors.used, max(matrices.used, 1))


def _stages(layers: tuple[Layer, ...]) -> tuple[list[tuple[Layer, list[Activation]]], Linear | None]:
    """The stages of a member and its last Linear. A single Linear is a stage, and what follows is Q = h."""
    if len(layers) == 1:
        return [(layers[0], [])], None
    stages: list[tuple[Layer, list[Activation]]] = []
    for layer in layers[:-1]:
        if isinstance(layer, Activation):
            stages[-1][1].append(layer)
        else:
            stages.append((layer, []))
    return stages, layers[-1]


class _Form(NamedTuple):
    """What a stage is, before it has a place."""

    kind: str
    width: int
    outer: int
    block: int
    activations: tuple[tuple[str, tuple[float, ...]], ...]
    eps: float


def _form(layers: tuple[Layer, ...], precision: str, action: int) -> tuple[_Form, ...]:
    """The stages of a member; equal for members that one piece of code can compute."""
    forms = []
    for i, (layer, activations) in enumerate(_stages(layers)[0]):
        norm = isinstance(layer, LayerNorm)
        kind = "norm" if norm else "linear" if i else "first"
        width = layer.width if norm else layer.weight.shape[0]
        block = column_block(width, precision, action)
        chain = tuple((a.kind, tuple(map(float, a.params))) for a in activations if a.kind != "identity")
        forms.append(_Form(kind, width, padded(width, block), block, chain, layer.eps if norm else 0.0))
    return tuple(forms)


def _group(forms, first, count, base, sizes, vectors, matrices, floats, operands) -> Group:
    """Gives every part of `count` members of one form its place."""
    member_vectors, member_matrices = _Space(), _Space()
    parts = {
        "state_weights": member_vectors.take(forms[0].outer * sizes["state_padded"]),
        "action_weights": member_vectors.take(forms[0].outer * sizes["action_padded"]),
        "out": member_vectors.take(forms[-1].outer),
        "out_bias": member_vectors.take(1),
    }
    stages: list[Stage] = []
    for form, after in zip(forms, (*forms[1:], None), strict=True):
        inner, norm = stages[-1].outer if stages else 0, form.kind == "norm"
        before_norm = after is not None and after.kind == "norm"
        stages.append(
            Stage(
                **form._asdict(),
                inner=inner,
                vectors=vectors.used + member_vectors.take(form.outer * (2 if norm else 1)),
                matrix=matrices.used + member_matrices.take(form.outer * (0 if norm else inner)),
                values=-1 if after is None else (floats if before_norm else operands).take(form.outer),
                slopes=operands.take(form.outer),
                before_norm=before_norm,
                normalised=floats.take(form.outer + 1) if norm else -1,
            )
        )
    start = vectors.take(count * member_vectors.used)
    matrices.take(count * member_matrices.used)
    return Group(
        first=first,
        count=count,
        stages=tuple(stages),
        base=base,
        **{name: start + offset for name, offset in parts.items()},
        vectors_stride=member_vectors.used,
        matrices_stride=member_matrices.used,
    )


class Weights:
    """A program's numbers as the kernel reads them: two flat tensors on the program's device.

    vectors: float32. matrices: float32, or bf16 under "bf16". `pack` writes in place, so that addresses hold.
    """

    def __init__(self, program: CriticProgram, layout: Layout, reduce: str | int, precision: str) -> None:
        self._layout, self._reduce = layout, reduce
        self.vectors = torch.zeros(layout.vectors, device=program.device)
        self.matrices = torch.zeros(layout.matrices, dtype=DTYPES[precision], device=program.device)
        self.pack(program)

    @torch.no_grad()
    def pack(self, program: CriticProgram) -> None:
        """Take the numbers of a program of the layout's structure. Padding stays zero."""
        structure = self._layout.structure
        members = iter(members_of(program, self._reduce))
        for group in structure.groups:
            for e in range(group.count):
                for target, source in self._parts(structure, group, e, next(members)):
                    if isinstance(source, Tensor):
                        target.copy_(source)
                    else:
                        target.fill_(source)

    def _parts(
        self, structure: Structure, group: Group, e: int, layers: tuple[Layer, ...]
    ) -> Iterator[tuple[Tensor, Tensor | float]]:
        """(where it goes, what goes there) of one member, without padding."""

        def at(offset: int, rows: int, columns: int, stride: int) -> Tensor:
            start = offset + e * group.vectors_stride
            return self.vectors.as_strided((rows, columns), (stride, 1), start)

        stages, out = _stages(layers)
        for stage, (layer, _) in zip(group.stages, stages, strict=True):
            width = stage.width
            weight, bias = layer.weight, 0.0 if layer.bias is None else layer.bias
            if stage.kind == "norm":
                yield at(stage.vectors, 1, width, width), 1.0 if weight is None else weight
                yield at(stage.vectors + stage.outer, 1, width, width), bias
                continue
            yield at(stage.vectors, 1, width, width), bias
            if stage.kind == "linear":
                start = stage.matrix + e * group.matrices_stride
                yield self.matrices.as_strided(tuple(weight.shape), (stage.inner, 1), start), weight
            else:
                state, action = weight.split((structure.state, structure.action), 1)
                yield at(group.state_weights, width, structure.state, structure.state_padded), state
                yield at(group.action_weights, width, structure.action, structure.action_padded), action
        last = group.stages[-1].width
        yield at(group.out, 1, last, last), 1.0 if out is None else out.weight
        bias = 0.0 if out is None or out.bias is None else out.bias
        yield at(group.out_bias, 1, 1, 1), bias
