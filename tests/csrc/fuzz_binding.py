"""Random arguments, right and wrong, to dtag_fast._C: nothing but ValueError or TypeError may come out of it.

    python fuzz_binding.py [calls = 4000] [seed = 1]

Meant for a build with DTAG_SANITIZE; needs NumPy alone. Addresses always belong to arrays that are large
enough: the binding cannot know better.
"""

import random
import sys

import numpy as np

from dtag_fast import _C

KINDS = [
    "identity",
    "relu",
    "leaky_relu",
    "elu",
    "gelu",
    "gelu_tanh",
    "silu",
    "mish",
    "tanh",
    "softplus",
    "swish",
    "",
]
PARAMS = {"leaky_relu": [0.1], "elu": [1.0], "softplus": [1.0, 20.0]}
ODD = [None, -1, 0, 1 << 70, 1.5, float("nan"), float("inf"), "", "min", [], [None], (), {}, object(), b"x"]


def array(rng, *shape):
    x = np.random.default_rng(rng.getrandbits(32)).standard_normal(shape).astype(np.float32)
    return (
        rng.choice([x.astype(np.float64), x.T, x[..., None], x[:0], x.tolist()]) if rng.random() < 0.03 else x
    )


def members(rng, inputs):
    result = []
    for _ in range(rng.randint(1, 3)):
        layers, width = [], inputs
        for _ in range(rng.randint(0, 3)):
            out = rng.choice([1, 5, 16, 33])
            layers.append(("linear", array(rng, out, width), rng.choice([None, array(rng, out)])))
            width = out
            for _ in range(rng.randint(0, 2)):
                kind = rng.choice(KINDS) if rng.random() < 0.3 else "relu"
                layers.append(("activation", kind, PARAMS.get(kind, [])))
            if rng.random() < 0.3:
                layers.append(("norm", array(rng, out), array(rng, out), rng.choice([1e-5, 1e-5, -1.0])))
        layers.append(("linear", array(rng, 1, width), None))
        if rng.random() < 0.05:
            layers.append(rng.choice(ODD))
        result.append(layers)
    return result


def plan_arguments(rng):
    state, action = rng.choice([1, 3, 17]), rng.choice([1, 6])
    arguments = {
        "state_dim": state,
        "action_dim": action,
        "members": members(rng, state + action),
        "isa": rng.choice(["", *_C.build_info()["isas"]]),
        "precision": rng.choice(["fp32", "bf16"]),
        "reduce": rng.choice(["min", "max", "mean"]),
        "optimizer": rng.choice(["sgd", "adam", "rmsprop"]),
        "gradient": rng.choice(["raw", "unit", "clip"]),
        "radius_norm": rng.choice(["none", "inf", "l2"]),
        "radius": 0.1,
        "select": rng.choice(["best", "last"]),
        "steps": rng.randint(0, 4),
        "threads": lambda: rng.choice([1, 2]),
        "kernel": rng.choice(["", "rows", "tiles"]),
    }
    if rng.random() < 0.5:
        arguments |= {"low": [-1.0] * action, "high": [1.0] * action}
    if rng.random() < 0.3:
        arguments[rng.choice(list(arguments))] = rng.choice(ODD)
    return arguments, state, action


def call_arguments(rng, state, action):
    batch, candidates, steps = rng.choice([0, 1, 2, 9, 40]), rng.choice([1, 1, 3]), rng.randint(0, 4)
    rows = max(batch, 1) * candidates
    arrays = {
        "states": np.ones(max(batch, 1) * (state + 1), np.float32),
        "actions": np.ones(rows * action, np.float32),
        "out": np.ones(max(batch, 1) * action, np.float32),
    }
    if rng.random() < 0.5:
        arrays |= {
            name: np.ones(rows, np.float32) for name in ("q_first", "q_best", "best_index", "best_candidate")
        }
        points = (steps + 1) * rows
        arrays |= {"trace_q": np.ones(points, np.float32)}
        arrays |= {name: np.ones(points * action, np.float32) for name in ("trace_actions", "trace_grad")}
    arguments = {"state_stride": state, "batch": batch, "candidates": candidates, "steps": steps, "lr": 0.1}
    if rng.random() < 0.3:
        arrays["scale_values"] = np.ones(action, np.float32)
        arrays["radius_values"] = np.ones(max(batch, 1), np.float32)
        arguments["scale_dim_stride"] = 1
    if rng.random() < 0.3:
        arrays["prior_mean_values"] = np.ones(action, np.float32)
        arrays["prior_weight_values"] = np.ones(max(batch, 1), np.float32)
        arguments["prior_mean_dim_stride"] = 1
    elif rng.random() < 0.3:
        arguments |= {"prior_mean": 0.5, "prior_weight": 2.0}
    arguments |= {name: x.ctypes.data for name, x in arrays.items()}
    if rng.random() < 0.3:  # these can be recognised as wrong; other wrong addresses and sizes cannot
        name = rng.choice(["states", "actions", "out", "q_first", "trace_q"])
        arguments[name] = rng.choice([0, -1, arguments.get(name, 0) + 1, "x", None, 1 << 70])
        strides = [f"{of}_{per}_stride" for of in ("lr", "scale", "prior_mean") for per in ("row", "dim")]
        name = rng.choice(
            ["state_stride", "batch", "candidates", "steps", "lr", "scale", "prior_weight", *strides]
        )
        arguments[name] = rng.choice([-1, 1 << 62, 1 << 70, float("nan"), None, "x"])
    return arguments, arrays


def main(calls=4000, seed=1):
    rng = random.Random(seed)
    outcomes = {"done": 0, "refused": 0}
    while sum(outcomes.values()) < calls:
        try:
            arguments, state, action = plan_arguments(rng)
            plan = _C.Plan(**arguments)
        except (ValueError, TypeError):
            outcomes["refused"] += 1
            continue
        if (arguments["state_dim"], arguments["action_dim"]) != (state, action):
            continue  # another value that happens to be right: the arrays below would not fit
        for _ in range(4):
            arguments, arrays = call_arguments(rng, state, action)
            try:
                plan.run(**arguments)
                outcomes["done"] += 1
            except (ValueError, TypeError):
                outcomes["refused"] += 1
            del arrays
    print(outcomes)
    assert min(outcomes.values()) > calls // 10


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
