"""`refine` under torch.compile and torch.export: one functional operator with a fake, no graph break.

In eager mode nothing here is used: a registered operator costs 10 to 20 us a call. The operator takes the
critic's weights so that a graph knows what it depends on; the critic itself is found by a handle, valid in
this process as long as the critic lives. A function is compiled anew for each Refiner, critic and set of
numbers that it meets, up to `torch._dynamo.config.recompile_limit`; steps and step sizes of rows, as tensors,
cost no compilation.
"""

from __future__ import annotations

import itertools
import weakref
from typing import Any

import torch
from torch import Tensor

from .info import RefineInfo
from .options import SGD, Adam, ClipNorm, Prior, Radius, RMSprop, Variant

_handles: weakref.WeakValueDictionary = weakref.WeakValueDictionary()
_numbers = itertools.count(1)
_FIELDS = ("q_0", "q_best", "best_index")
_TRACES = ("trace_actions", "trace_q", "trace_grad")
_OPTIONS = {option.__name__: option for option in (SGD, Adam, RMSprop, ClipNorm, Radius, Prior)}
_CANDIDATES = ("best_candidate", "candidate_q_0", "candidate_q_best", "candidate_best_index")


def register(refiner: Any) -> int:
    """A handle for a Refiner."""
    handle = next(_numbers)
    _handles[handle] = refiner
    return handle


def encode(option: Any) -> Any:
    """An option as plain constants, which torch.compile can hand on."""
    if isinstance(option, SGD):
        return ("SGD", constant(option.momentum), option.nesterov)
    if isinstance(option, Adam):
        return ("Adam", constant(option.betas), constant(option.eps))
    if isinstance(option, RMSprop):
        return ("RMSprop", constant(option.alpha), constant(option.eps))
    if isinstance(option, ClipNorm):
        return ("ClipNorm", constant(option.limit))
    if isinstance(option, list | tuple):
        return ("variants", *(tuple((name, encode(x)) for name, x in vars(v).items()) for v in option))
    if isinstance(option, Prior):
        mean, weight = (0.0 if isinstance(x, Tensor) else constant(x) for x in (option.mean, option.weight))
        return ("Prior", mean, weight)  # tensors are arguments of the operator
    if isinstance(option, Radius):
        return ("Radius", constant(option.limit), option.norm)
    return constant(option)


def constant(value: Any) -> Any:
    """A number as it is now, for which the graph is compiled, or a tuple of them; other values unchanged.

    torch.compile makes a symbol of a number that changed since it last compiled the same code, and under
    dynamic=True of any. A critic's handle and options cannot be symbols.
    """
    if isinstance(value, list | tuple):
        return tuple(constant(x) for x in value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    from torch.fx.experimental.symbolic_shapes import guard_scalar  # at hand only while something compiles

    return guard_scalar(value)


def decode(option: Any) -> Any:
    """The inverse of `encode`."""
    if not isinstance(option, tuple):
        return option
    if option[0] == "variants":
        return [Variant(**{name: decode(x) for name, x in fields}) for fields in option[1:]]
    return _OPTIONS[option[0]](*option[1:])


def info_fields(dims: int, return_info: Any) -> tuple[str, ...]:
    """The fields of RefineInfo that a call fills, in the operator's order."""
    if return_info is False:
        return ()
    return _FIELDS + (_TRACES if return_info == "trace" else ()) + (_CANDIDATES if dims == 3 else ())


# A CUDA graph that torch.compile makes by itself ("reduce-overhead") would go on with the weights of its
# recording, and its first run would pack them into memory that the graph takes back. With this tag the
# operator runs between such graphs, at its first call too, and sees new weights.
_TAGS = tuple(filter(None, [getattr(torch.Tag, "cudagraph_unsafe", None)]))


@torch.library.custom_op("dtag_fast::refine", mutates_args=(), tags=_TAGS)
def refine_operator(
    states: Tensor,
    actions: Tensor,
    weights: list[Tensor],
    steps: Tensor | None,
    lr: Tensor | None,
    scale: Tensor | None,
    radius: Tensor | None,
    variant: Tensor | None,
    prior_mean: Tensor | None,
    prior_weight: Tensor | None,
    most_steps: int,
    handle: int,
) -> list[Tensor]:
    """[refined actions, *info]; numbers of rows replace those of the Refiner when given."""
    refiner = _handles.get(handle)
    if refiner is None:
        raise RuntimeError(
            "refine: the critic of this compiled graph no longer exists in this process; keep it alive, "
            "or compile "
            "or export again where it lives"
        )
    for given, live in zip(weights, refiner.weights(), strict=True):
        if given.data_ptr() != live.data_ptr() and not torch.equal(given, live):
            raise RuntimeError(
                "refine: the critic's weights were changed inside the compiled graph before refine; call "
                "refine "
                "outside of that graph"
            )
    numbers = {"steps": steps, "lr": lr, "scale": scale, "radius": radius, "variant": variant}
    if prior_mean is not None or prior_weight is not None:
        own_prior = refiner.prior
        mean = own_prior.mean if prior_mean is None else prior_mean
        numbers["prior"] = Prior(mean, own_prior.weight if prior_weight is None else prior_weight)
    own = all(x is None for x in numbers.values())
    result = refiner.eager(states, actions) if own else refiner.run(states, actions, **numbers)
    if refiner.return_info is False:
        return [result]
    result, info = result
    return [result, *(getattr(info, name).clone() for name in info_fields(actions.ndim, refiner.return_info))]


@refine_operator.register_fake
def _(
    states, actions, weights, steps, lr, scale, radius, variant, prior_mean, prior_weight, most_steps, handle
):
    refiner = _handles[int(handle)]  # a symbol, where the same code was compiled with another Refiner
    shape = tuple(actions.shape)
    rows, width = shape[:1] if len(shape) > 1 else (), shape[-1:]
    candidates = shape[1:2] if len(shape) == 3 else ()
    kinds = {
        **dict.fromkeys(("q_0", "q_best"), (rows, torch.float32)),
        **dict.fromkeys(("best_index", "best_candidate"), (rows, torch.int64)),
        **dict.fromkeys(("candidate_q_0", "candidate_q_best"), (rows + candidates, torch.float32)),
        "candidate_best_index": (rows + candidates, torch.int64),
        "trace_q": ((most_steps + 1, *rows, *candidates), torch.float32),
        **dict.fromkeys(
            ("trace_actions", "trace_grad"), ((most_steps + 1, *rows, *candidates, *width), torch.float32)
        ),
    }
    fields = [kinds[name] for name in info_fields(len(shape), refiner.return_info)]
    return [actions.new_empty(rows + width), *(actions.new_empty(s, dtype=d) for s, d in fields)]


def call_operator(
    handle: int,
    weights: list[Tensor],
    return_info: Any,
    states,
    actions,
    steps,
    lr,
    scale,
    radius,
    variant,
    prior,
) -> Any:
    """The operator in the shape of `refine`'s result; what torch.compile sees of a call."""
    if not isinstance(states, Tensor) or not isinstance(actions, Tensor):
        raise TypeError("states, actions: under torch.compile and export both must be torch tensors")
    per_row = isinstance(steps, Tensor)
    if per_row and return_info == "trace":
        raise ValueError("steps: under torch.compile a trace needs one number of steps for all rows")
    results = torch.ops.dtag_fast.refine(
        states.detach(),
        actions.detach(),
        weights,
        steps if per_row else None,
        lr if isinstance(lr, Tensor) else None,
        scale if isinstance(scale, Tensor) else None,
        radius,
        variant,
        prior.mean if isinstance(prior.mean, Tensor) else None,
        prior.weight if isinstance(prior.weight, Tensor) else None,
        0 if per_row else steps,
        handle,
    )
    if return_info is False:
        return results[0]
    names = info_fields(actions.ndim, return_info)
    return results[0], RefineInfo(**dict(zip(names, results[1:], strict=True)))
