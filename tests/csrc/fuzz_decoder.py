"""Random steps, right and wrong, of the compiled decoder, over memory of exactly the size they may touch.

    python fuzz_decoder.py [policies = 300] [seed = 1]

Meant for a build with DTAG_SANITIZE. Steps of rollouts of random age and order end with finite actions; what
is wrong ends in a ValueError or TypeError.
"""

import random
import sys

import numpy as np

from dtag_fast import _C

ISAS = [*_C.isas(), "emulated512", "emulated512bf16", "emulated512amx"]


def policy(rng):
    """Arguments of _C.Decoder, and the arrays they point to."""
    heads = rng.choice([1, 1, 2, 3, 8])
    d, k = heads * rng.choice([1, 4, 7, 16, 33]), rng.choice([1, 2, 3, 7, 22])
    sizes = {
        "state_dim": rng.randint(1, 20),
        "action_dim": rng.randint(1, 40),
        "context_len": k,
        "max_timestep": rng.randint(1, 3 * k + 3),
        "d_model": d,
        "n_head": heads,
        "n_layer": rng.randint(1, 3),
    }
    kinds = {
        "norm": rng.choice(["post", "pre"]),
        "activation": rng.choice(["gelu", "relu"]),
        "predicts_returns": rng.random() < 0.5,
    }
    s, a, layers = sizes["state_dim"], sizes["action_dim"], range(sizes["n_layer"])
    linear = {"embed_state": (d, s), "embed_action": (d, a), "embed_return": (d, 1), "action_head": (a, d)}
    linear["return_head"] = (1, d)
    for i in layers:
        linear |= {f"blocks.{i}.qkv": (3 * d, d), f"blocks.{i}.out": (d, d)}
        linear |= {f"blocks.{i}.expand": (4 * d, d), f"blocks.{i}.contract": (d, 4 * d)}
    norms = ["embed_norm", "final_norm", *(f"blocks.{i}.norm_{n}" for i in layers for n in (1, 2))]
    shapes = {f"{name}.weight": shape for name, shape in linear.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in linear.items()}
    shapes |= {f"{name}.{kind}": (d,) for name in norms for kind in ("weight", "bias")}
    shapes |= {"embed_timestep.weight": (sizes["max_timestep"], d), "centre": (a,), "half_range": (a,)}
    make = np.random.default_rng(rng.randrange(1 << 30))
    weights = {name: make.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    if rng.random() < 0.3:  # the head's outputs as they are
        del weights["centre"], weights["half_range"]
    rollouts = rng.randint(1, 40)
    rings = [np.zeros((rollouts, 3 * k, width * d), np.float32) for width in (1, 3, *[2] * (len(layers) - 1))]
    arguments = (
        sizes
        | kinds
        | {"eps": 1e-5, "weights": weights, "rollouts": rollouts, "isa": rng.choice(ISAS)}
        | {"precision": rng.choice(["fp32", "bf16"])}
    )
    threads = rng.choice([1, 2, 3])
    tokens, projected, *kept = (ring.ctypes.data for ring in rings)
    arguments |= {"tokens": tokens, "projected": projected, "kept": kept, "threads": lambda: threads}
    return arguments, rings


def spoil(rng, arguments):
    name = rng.choice([name for name in arguments if name not in ("isa", "rollouts", "tokens", "projected")])
    if name == "weights":
        weights = dict(arguments[name])
        victim = rng.choice(list(weights))
        if "centre" in weights and rng.random() < 0.1:  # one of the bounds alone
            del weights[rng.choice(["centre", "half_range"])]
            return arguments | {name: weights}
        weights[victim] = rng.choice([None, weights[victim][..., :0], weights[victim].astype(np.float64)])
        return arguments | {name: weights}
    wrong = [0, -1, 1 << 70, float("nan"), None, "x", [], [1]]
    return arguments | {name: rng.choice(wrong)}


def step(rng, decoder, arguments, ages):
    """One step of some rollouts, `ages` moved on; whether it was refused."""
    rollouts, most = arguments["rollouts"], arguments["max_timestep"]
    rows = rng.sample(range(rollouts), rng.randint(1, rollouts))
    for row in rows:  # too old, or of age
        if ages[row] >= most or rng.random() < 0.05:
            ages[row] = 0
    times = np.array([ages[row] for row in rows], np.int64)
    arrays = {
        "rows": np.array(rows, np.int64),
        "timesteps": times,
        "previous_actions": np.ones((len(rows), arguments["action_dim"]), np.float32),
        "states": np.ones((len(rows), arguments["state_dim"]), np.float32),
        "actions": np.full((len(rows), arguments["action_dim"]), np.nan, np.float32),
        "predicted" if arguments["predicts_returns"] else "returns": np.ones((len(rows), 1), np.float32),
    }
    wrong = rng.random() < 0.1
    if wrong:
        name = rng.choice(["rows", "timesteps"])
        arrays[name][rng.randrange(len(rows))] = rng.choice([-1, 1 << 40, max(rollouts, most)])
    try:
        decoder.step(count=len(rows), **{name: x.ctypes.data for name, x in arrays.items()})
    except ValueError:
        assert wrong
        return True
    assert not wrong and np.isfinite(arrays["actions"]).all()
    for row in rows:
        ages[row] += 1
    return False


def main(policies=300, seed=1):
    rng = random.Random(seed)
    outcomes = {"done": 0, "refused": 0, "policies refused": 0}
    for _ in range(policies):
        arguments, rings = policy(rng)
        try:
            _C.Decoder(**spoil(rng, arguments))
        except (ValueError, TypeError):
            outcomes["policies refused"] += 1
        decoder, ages = _C.Decoder(**arguments), [0] * arguments["rollouts"]
        for _ in range(30):
            outcomes["refused" if step(rng, decoder, arguments, ages) else "done"] += 1
        del rings
    print(outcomes)
    assert outcomes["done"] > 20 * policies and outcomes["refused"] > policies
    assert outcomes["policies refused"] > policies // 2


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
