"""Random calls, right and wrong, of the compiled form of a repeated call, while its critic changes.

    python fuzz_prepared_call.py [calls = 20000] [seed = 1] [backend = cpu]

Meant for a build with DTAG_SANITIZE. Whatever is given, the outcome is that of the general way: the same
numbers, or an error of a kind that the contract names. Backend cuda is the CUDA kernels run on the CPU
(tools/simt.py; its sanitized build under DTAG_SIMT_SANITIZE=1), some streams of which are being captured.
"""

import random
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from dtag_fast import Prior, Refiner
from dtag_fast.ops.refine import backends
from dtag_fast.ops.refine.cuda import CudaExecutor

S, A = 5, 3


def critic_of(rng):
    width = rng.choice([1, 7, 16])
    layers = [nn.Linear(S + A, width), rng.choice([nn.ReLU(), nn.Tanh()]), nn.Linear(width, 2)]
    return nn.Sequential(*layers)


def argument(rng, rows, width):
    """A tensor or array, mostly as wanted."""
    x = torch.rand(rows, width) * 2 - 1
    kind = rng.randrange(12)
    if kind == 0:
        x = x[0]
    elif kind == 1:
        x = torch.rand(rows, 2 * width)[:, ::2]
    elif kind == 2:
        x = x.double()
    elif kind == 3:
        x = rng.choice([x.half(), x.bfloat16(), x[:, :-1], x[:0], x[None], x * 3])
    elif kind == 4:
        x[0, 0] = rng.choice([float("nan"), float("inf")])
    array = x.dtype is not torch.bfloat16 and rng.random() < 0.5
    return x.numpy() if array else x


def disturb(rng, critic):
    with torch.no_grad():
        kind = rng.randrange(3)
        if kind == 0:
            critic[0].bias.add_(0.01)
        elif kind == 1:
            critic[2].weight = nn.Parameter(critic[2].weight * 0.9)
        else:
            critic.train(not critic.training)


def outcome(call, *arguments):
    """What a call gives, as an array, or the type of its error."""
    try:
        return np.asarray(call(*arguments))
    except (ValueError, TypeError) as error:
        return type(error)


def stand_in_for_cuda():
    """The module of the kernels on the CPU, which the cuda backend is from now on."""
    from tools import simt

    core = simt.load()
    core.set_device(seed=0)
    module = SimpleNamespace(why_not=lambda *_: None, CudaExecutor=partial(CudaExecutor, core=core))
    backends.FAST_BACKENDS["cuda"] = backends.Backend("cpu", lambda: module, "CudaExecutor")
    return core


def main(calls=20_000, seed=1, backend="cpu"):
    calls, seed = int(calls), int(seed)
    core = stand_in_for_cuda() if backend == "cuda" else None
    rng = random.Random(seed)
    torch.manual_seed(seed)
    seen = {"prepared": 0, "general": 0, "refused": 0}
    while sum(seen.values()) < calls:
        critic = critic_of(rng)
        numbers = {"scale": rng.choice([None, 0.5]), "prior": rng.choice([None, Prior(0.1, 1.0)])}
        refiner = Refiner(critic, steps=rng.randint(0, 3), **numbers, backend=backend)
        for _ in range(100):
            if rng.random() < 0.1:
                disturb(rng, critic)
            if core is not None and rng.random() < 0.1:
                core.set_capturing(rng.choice([set(), set(), {0}, {1}]))
            rows = rng.choice([1, 1, 1, 9, 3])
            states, actions = argument(rng, rows, S), argument(rng, rows, A)
            out = argument(rng, rows, A) if rng.random() < 0.3 else None
            prepared = refiner._prepared
            result = outcome(prepared, states, actions, out) if prepared else np.asarray(None)
            if isinstance(result, np.ndarray) and result.dtype == object:  # None: not the prepared call
                result = outcome(refiner, states, actions, out)
                seen["refused" if isinstance(result, type) else "general"] += 1
                continue
            seen["prepared"] += 1
            if out is not actions:
                expected = outcome(refiner.run, states, actions)
                np.testing.assert_array_equal(result, expected)
    print(seen)
    assert min(seen.values()) > calls // 20


if __name__ == "__main__":
    main(*sys.argv[1:])
