"""Damaged and hostile files of every format: a critic that computes, or one line that says why not.

Each format is a value, as nested dicts and lists, and a function that packs it into a file; what goes into
the packing and what comes out of it are damaged by seeded mutations. `load_critic` must end in a critic or in
ValueError, TypeError or FileNotFoundError, in little time and little memory.
"""

from __future__ import annotations

import io
import json
import pickle
import resource
import signal
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import d3rlpy_files
import mutations
import numpy as np
import pytest
import torch

from dtag_fast.interop import load_critic

S, A, H = d3rlpy_files.S, d3rlpy_files.A, 8
SECONDS = 10  # for one file; a good one takes some milliseconds
MEMORY = 1 << 30  # of addresses, beyond what the process has

Damage = Callable[[bytes], bytes]


def untouched(content: bytes) -> bytes:
    return content


@dataclass(frozen=True)
class Written:
    """A format: what a good file holds, how it is packed, and what `load_critic` must be told.

    Attributes:
        module: of `dtag_fast.interop.formats`.
        pack: of a value and of damage to the file of weights that lies within the file, its bytes.
    """

    module: str
    value: Callable[[], Any]
    pack: Callable[[Any, Damage], bytes]
    options: dict[str, Any] = field(default_factory=dict)


def linear(*names: str, widths: tuple[int, ...] = (S + A, H, H, 1)) -> dict[str, torch.Tensor]:
    """Weights (out, in) and biases of layers by their names."""
    generator = torch.Generator().manual_seed(len(names))
    found = {}
    for name, n, m in zip(names, widths, widths[1:], strict=False):
        found[f"{name}.weight"] = torch.randn(m, n, generator=generator)
        found[f"{name}.bias"] = torch.randn(m, generator=generator)
    return found


def pack_torch(value: Any, damage: Damage) -> bytes:
    return damage(d3rlpy_files.saved(value))


def pack_d3(value: Any, damage: Damage) -> bytes:
    parts = value if isinstance(value, dict) else {"torch": value}
    config = json.dumps(parts.get("config"))
    weights = damage(d3rlpy_files.saved(parts.get("states")))
    return pickle.dumps({"torch": weights, "config": config, "version": "2.8.1"})


def pack_sb3(value: Any, damage: Damage) -> bytes:
    parts = value if isinstance(value, dict) else {}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("data", json.dumps(parts.get("data")))
        archive.writestr("policy.pth", damage(d3rlpy_files.saved(parts.get("states"))))
        archive.writestr("_stable_baselines3_version", "2.9.2")
    return stream.getvalue()


def pack_npz(value: Any, damage: Damage) -> bytes:
    stream = io.BytesIO()
    np.savez(
        stream, **{str(k) or "x": np.asarray(v, np.float32 if v is None else None) for k, v in value.items()}
    )
    return damage(stream.getvalue())


def d3() -> dict[str, Any]:
    scaler = d3rlpy_files.part("standard", mean=[0.5] * S, std=[2.0] * S, eps=1e-3)
    bounds = d3rlpy_files.part("min_max", minimum=[-2.0] * A, maximum=[2.0] * A)
    encoder = d3rlpy_files.part("vector", hidden_units=list(d3rlpy_files.HIDDEN), activation="relu")
    described = d3rlpy_files.config(
        observation_scaler=scaler, action_scaler=bounds, critic_encoder_factory=encoder
    )
    return {"config": described, "states": d3rlpy_files.states()}


def sb3() -> dict[str, Any]:
    box = {
        ":type:": "<class 'gymnasium.spaces.box.Box'>",
        ":serialized:": "bm90IGEgcGlja2xl",
        "dtype": "float32",
    }
    states = {"actor.latent_pi.0.weight": torch.zeros(H, S), "actor.mu.bias": torch.zeros(A)}
    for critic in ("critic", "critic_target"):
        for i in range(2):
            states |= linear(*(f"{critic}.qf{i}.{j}" for j in (0, 2, 4)))
    policy = {":type:": "<class 'abc.ABCMeta'>", "__module__": "stable_baselines3.sac.policies"}
    data = {
        "policy_class": policy,
        "policy_kwargs": {"net_arch": [H, H], "use_sde": False},
        "observation_space": box | {"_shape": [S], "low": "[-1. -1. -8. -1.]"},
        "action_space": box | {"_shape": [A], "low": "[-2.   0.5]", "high": "[2.  1.5]"},
    }
    return {"data": data, "states": states}


def corl_td3_bc() -> dict[str, Any]:
    critic = linear("net.0", "net.2", "net.4")
    actor = linear("net.0", "net.2", "net.4", widths=(S, H, H, A))
    return {"critic_1": critic, "critic_2": critic, "actor": actor, "critic_1_optimizer": {}, "total_it": 7}


def corl_iql() -> dict[str, Any]:
    members = linear("q1.net.0", "q1.net.2", "q1.net.4") | linear("q2.net.0", "q2.net.2", "q2.net.4")
    actor = {f"net.{name}": w for name, w in linear("net.0", "net.2", "net.4", widths=(S, H, H, A)).items()}
    return {
        "qf": members,
        "vf": linear("v.net.0", "v.net.2", widths=(S, H, 1)),
        "actor": actor,
        "total_it": 7,
    }


def cleanrl() -> tuple[dict[str, Any], ...]:
    actor = linear("fc1", "fc2", "fc_mu", widths=(S, H, H, A))
    actor |= {"action_scale": torch.ones(1, A), "action_bias": torch.zeros(1, A)}
    return actor, linear("fc1", "fc2", "fc3"), linear("fc1", "fc2", "fc3")


def flax_tree() -> dict[str, Any]:
    found = {}
    for member in ("critic_0", "critic_1"):
        for name, weight in linear("Dense_0", "Dense_1", "Dense_2").items():
            layer, kind = name.split(".")
            array = weight.T.numpy() if kind == "weight" else weight.numpy()
            found[f"{member}/{layer}/{'kernel' if kind == 'weight' else 'bias'}"] = array
    return found


CORL = {"action_dim": A, "state_mean": 0, "state_std": 1}
FORMATS = {
    "d3rlpy .d3": Written("d3rlpy", d3, pack_d3),
    "d3rlpy .pt": Written("d3rlpy", d3rlpy_files.states, pack_torch),
    "stable-baselines3 .zip": Written("stable_baselines3", sb3, pack_sb3),
    "corl TD3+BC": Written("corl", corl_td3_bc, pack_torch, CORL),
    "corl IQL": Written("corl", corl_iql, pack_torch, CORL),
    "cleanrl": Written("cleanrl", cleanrl, pack_torch),
    "flax .npz": Written("parameter_trees", flax_tree, pack_npz, {"action_dim": A}),
}


@contextmanager
def bounded() -> Iterator[None]:
    """At most MEMORY more addresses, and SECONDS."""

    def stop(*_: Any) -> None:
        pytest.fail(f"took over {SECONDS} s")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = signal.signal(signal.SIGALRM, stop)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, hard))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def outcome(path: Path, options: dict[str, Any]) -> str:
    """Loads and computes; whatever is not allowed to come up does."""
    try:
        critic = load_critic(path, **options)
    except (ValueError, TypeError, FileNotFoundError) as error:
        said = str(error)
        assert said and "\n" not in said, f"not one line: {said!r}"
        assert type(error) in (ValueError, TypeError, FileNotFoundError), type(error)
        return "refused"
    states, actions = torch.zeros(2, critic.state_dim), torch.zeros(2, critic.action_dim)
    values = critic(states, actions)
    assert values and all(q.shape == (2, 1) and q.dtype == torch.float32 for q in values)
    return "loaded"


def mutated(written: Written, rng: np.random.Generator, other: bytes) -> bytes:
    value, damage, kind = written.value(), untouched, int(rng.integers(6))
    if kind <= 1:
        for _ in range(int(rng.integers(1, 4))):
            value = mutations.change_value(value, rng)
    elif kind == 2:
        damages = [*mutations.BYTES, mutations.zip_fields, mutations.zip_entries]
        chosen = damages[rng.integers(len(damages))]
        damage = lambda content: chosen(content, rng)  # noqa: E731
    content = written.pack(value, damage)
    if kind == 3:
        content = mutations.BYTES[rng.integers(len(mutations.BYTES))](content, rng)
    elif kind == 4:
        content = (mutations.zip_fields, mutations.zip_entries)[rng.integers(2)](content, rng)
    elif kind == 5:
        content = mutations.splice(content, other, rng)
    return content


def check_mutations(name: str, seeds: range, tmp_path: Path) -> dict[str, int]:
    written, counts = FORMATS[name], {"refused": 0, "loaded": 0}
    others = [other.pack(other.value(), untouched) for other in FORMATS.values()]
    path = tmp_path / "model"
    for seed in seeds:
        rng = np.random.default_rng(seed)
        try:
            content = mutated(written, rng, others[seed % len(others)])
        except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, OverflowError, MemoryError):
            continue  # such a value cannot be packed
        path.write_bytes(content)
        try:
            with bounded():
                counts[outcome(path, written.options)] += 1
        except BaseException as error:
            raise AssertionError(f"{name}, seed {seed}: {type(error).__name__}: {error}") from error
    return counts


@pytest.fixture(params=FORMATS)
def name(request) -> str:
    pytest.importorskip(f"dtag_fast.interop.formats.{FORMATS[request.param].module}")
    return request.param


def test_the_good_file_of_a_format_loads(name, tmp_path):
    path = tmp_path / "model"
    path.write_bytes(FORMATS[name].pack(FORMATS[name].value(), untouched))
    assert outcome(path, FORMATS[name].options) == "loaded"


def test_mutated_files_give_a_critic_or_one_line(name, tmp_path):
    counts = check_mutations(name, range(150), tmp_path)
    assert counts["refused"] > 50 and sum(counts.values()) > 100


@pytest.mark.slow
def test_very_many_mutated_files_give_a_critic_or_one_line(name, tmp_path):
    counts = check_mutations(name, range(1_000, 3_000), tmp_path)
    assert counts["refused"] > 800 and counts["loaded"] > 10
