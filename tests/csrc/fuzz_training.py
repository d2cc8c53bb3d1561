"""Random passes and IQL updates, right and wrong, over memory of exactly the size that they may touch.

    python fuzz_training.py [networks = 300] [seed = 1]

Meant for a build with DTAG_SANITIZE. What is right ends with finite numbers; what is wrong ends in a
ValueError or TypeError.
"""

import random
import sys
from itertools import pairwise

import numpy as np

from dtag_fast import _C

ISAS = [*_C.isas(), "emulated512"]
ACTIVATIONS = ["relu", "elu", "gelu", "silu", "mish", "tanh"]
WRONG = [-1, 1 << 70, float("nan"), None, "x", [], [1], [[1]]]
counts = {"passes": 0, "updates": 0, "refused": 0}


def numbers(make, *shape):
    return make.normal(size=shape).astype(np.float32)


def addresses(arrays):
    return [array.ctypes.data for array in arrays]


def layers(make, widths, members: int):
    """Weights and biases by member and layer."""
    weights = [numbers(make, out, inner) for _ in range(members) for inner, out in pairwise(widths)]
    biases = [numbers(make, out) for _ in range(members) for out in widths[1:]]
    return weights, biases


def network_pass(rng, make):
    widths = [rng.choice([1, 2, 7, 16, 33, 70]) for _ in range(rng.randint(2, 4))]
    members, rows, threads = rng.randint(1, 3), rng.choice([1, 5, 12, 50, 130]), rng.choice([1, 2, 3])
    activation, isa = rng.choice(ACTIVATIONS), rng.choice(ISAS)
    normed = len(widths) - 2 if rng.random() < 0.5 else 0  # hidden layers with LayerNorm
    made = {"widths": widths, "members": members, "activation": activation, "isa": isa}
    made["norm_eps"] = [rng.choice([1e-5, 0.1])] * normed
    if rng.random() < 0.1:
        made[rng.choice(list(made))] = rng.choice(WRONG)
    mlp = _C.Mlp(**made, threads=lambda: threads)
    weights, biases = layers(make, widths, members)
    scales, shifts = ([numbers(make, w) for _ in range(members) for w in widths[1:-1][:normed]] for _ in "ab")
    rstd = np.zeros((len(scales), rows), np.float32)
    more = rng.randint(0, widths[0] - 1)
    x, extra = numbers(make, rows, widths[0] - more), numbers(make, rows, more)
    mean, std = numbers(make, widths[0] - more), 1 + np.abs(numbers(make, widths[0] - more))
    inputs, hidden = np.zeros((rows, mlp.padded_in), np.float32), np.zeros(mlp.hidden_size(rows), np.float32)
    before, out = np.zeros_like(hidden), np.zeros((members, rows, widths[-1]), np.float32)
    standardise = rng.random() < 0.5
    forward = {
        "rows": rows,
        "weights": addresses(weights),
        "biases": addresses(biases),
        "x": x.ctypes.data,
        "x_stride": x.shape[1],
        "extra": extra.ctypes.data if more else 0,
        "extra_stride": more,
        "extra_width": more,
        "mean": mean.ctypes.data if standardise else 0,
        "std": std.ctypes.data if standardise else 0,
        "in_": inputs.ctypes.data,
        "hidden": hidden.ctypes.data,
        "before": before.ctypes.data,
        "out": out.ctypes.data,
    }
    norms = {"scales": addresses(scales), "shifts": addresses(shifts), "rstd": rstd.ctypes.data}
    forward |= norms
    comes_back = rng.random() < 0.8
    if not comes_back:
        forward |= {"before": 0, "rstd": 0}
    if rng.random() < 0.1:
        forward[rng.choice(["rows", "weights", "biases", "x", "in_", "out", "extra_width", "scales"])] = (
            rng.choice([0 if rng.random() < 0.5 else -1, *WRONG])
        )
        if forward["rows"] == rows and forward["extra_width"] != more:
            forward["extra_width"] = widths[0]  # too many; fewer than are there would be read elsewhere
    mlp.forward(**forward)
    assert np.isfinite(out).all()
    if not comes_back:
        counts["passes"] += 1
        return
    to_weights, to_inputs = rng.random() < 0.8, rng.random() < 0.5
    out_grad, hidden_grad = numbers(make, *out.shape), np.zeros_like(hidden)
    in_grad = np.zeros((members, rows, widths[0]), np.float32)
    grads = [[np.zeros_like(array) for array in group] for group in (weights, biases, scales, shifts)]
    mlp.backward(
        rows=rows,
        weights=addresses(weights),
        in_=inputs.ctypes.data,
        hidden=hidden.ctypes.data,
        before=before.ctypes.data,
        out_grad=out_grad.ctypes.data,
        hidden_grad=hidden_grad.ctypes.data,
        in_grad=in_grad.ctypes.data if to_inputs else 0,
        weight_grads=addresses(grads[0]) if to_weights else [],
        bias_grads=addresses(grads[1]) if to_weights else [],
        scale_grads=addresses(grads[2]) if to_weights else [],
        shift_grads=addresses(grads[3]) if to_weights else [],
        **norms,
    )
    assert all(np.isfinite(g).all() for group in grads for g in group) and np.isfinite(in_grad).all()
    counts["passes"] += 1


def trained(make, widths, members: int, follows: bool, extra: int, kept: list):
    """A network with its optimizer as _C.IqlUpdate takes it; `kept` holds its arrays."""
    weights, biases = layers(make, widths, members)
    parameters = [array for pair in zip(weights, biases, strict=True) for array in pair]
    first = [np.zeros_like(p) for p in parameters]
    second = [np.zeros_like(p) for p in parameters]
    followers = [p.copy() for p in parameters] if follows else []
    own = [np.zeros(extra, np.float32) for _ in range(3)] if extra else []
    steps = [np.ones(1, np.float32) for _ in range(len(parameters) + bool(extra))]
    kept += [parameters, first, second, followers, own, steps]
    return {
        "widths": widths,
        "members": members,
        "parameters": addresses(parameters),
        "first": addresses(first),
        "second": addresses(second),
        "followers": addresses(followers),
        "extra": addresses(own),
        "counts": addresses(steps),
    }


def iql_updates(rng, make):
    s, a, rows = rng.randint(1, 20), rng.randint(1, 9), rng.choice([1, 3, 17, 64])
    hidden = [rng.choice([1, 7, 16, 33]) for _ in range(rng.randint(0, 2))]
    kept: list = []
    settings = {"rows": rows, "action_dim": a, "expectile": 0.7, "polyak": 0.005, "lr": 1e-3}
    settings |= {"inverse_temperature": 3.0, "max_weight": 100.0, "mean": [0.5] * s, "std": [2.0] * s}
    critic = trained(make, [s + a, *hidden, 1], rng.randint(1, 3), True, 0, kept)
    value = trained(make, [s, *hidden, 1], 1, False, 0, kept)
    policy = None
    if rng.random() < 0.5:
        policy = trained(make, [s, *hidden, a], 1, False, a, kept)
        policy |= {"centre": [0.0] * a, "half_range": [1.0] * a, "low": [-1.0] * a, "high": [1.0] * a}
        policy |= {"log_std_low": -5.0, "log_std_high": 2.0}
    given = {"settings": settings, "critic": critic, "value": value, "policy": policy}
    spoiled = rng.random() < 0.3
    if spoiled:
        victim = rng.choice([part for part in given.values() if part is not None])
        victim[rng.choice([name for name in victim if name not in ("counts", "mean", "std")])] = rng.choice(
            WRONG
        )
        if settings["rows"] != rows or settings["action_dim"] != a:
            settings["rows"] = rng.choice([0, -1, None])
    threads = rng.choice([1, 2])
    update = _C.IqlUpdate(
        **given, activation=rng.choice(ACTIVATIONS), isa=rng.choice(ISAS), threads=lambda: threads
    )
    columns = [numbers(make, rows, width) for width in (s, a, 1, s, 1, 1)]
    for _ in range(2):
        pairs = [(column.ctypes.data, column.shape[1]) for column in columns]
        if rng.random() < 0.05:
            pairs = rng.choice([pairs[:5], [(0, 1), *pairs[1:]], [(pairs[0][0], -s), *pairs[1:]]])
        metrics = update.run(pairs, 1e-3)
        assert spoiled or np.isfinite(metrics).all()  # a learning rate of 1e21 is taken at its word
        counts["updates"] += 1
    assert spoiled or all(np.isfinite(array).all() for arrays in kept for array in arrays)


def main(networks: int = 300, seed: int = 1) -> None:
    rng, make = random.Random(seed), np.random.default_rng(seed)
    for _ in range(networks):
        for attempt in (network_pass, iql_updates):
            try:
                attempt(rng, make)
            except (ValueError, TypeError, OverflowError):
                counts["refused"] += 1
    print(counts)
    assert counts["passes"] > networks / 2 and counts["updates"] > networks / 2 and counts["refused"] > 0


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
