"""The examples in docs/interop run as they stand, and refined actions have a greater Q."""

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign_q import random_pairs
from torch import nn

from dtag_fast.data import Episode, TrajectoryStore

PAGES = Path(__file__).parents[2] / "docs" / "interop"
S, A, H = 5, 3, 16


def sequential(inputs, outputs):
    parts = [(nn.Linear(n, m), nn.ReLU()) for n, m in pairwise([inputs, H, H])]
    return nn.Sequential(*(part for pair in parts for part in pair), nn.Linear(H, outputs))


def states_of(name, inputs, outputs):
    return {f"{name}.{key}": x for key, x in sequential(inputs, outputs).state_dict().items()}


def corl(folder):
    critics = {key: states_of("net", S + A, 1) for key in ("critic_1", "critic_2")}
    torch.save(critics | {"actor": states_of("net", S, A), "total_it": 9}, folder / "checkpoint_9.pt")


def cleanrl(folder):
    def layers(*names_and_shapes):
        shapes = {f"{name}.weight": (m, n) for name, n, m in names_and_shapes}
        biases = {f"{name}.bias": (m,) for name, _, m in names_and_shapes}
        return {name: torch.randn(shape) / 4 for name, shape in (shapes | biases).items()}

    actor = layers(("fc1", S, H), ("fc2", H, H), ("fc_mu", H, A))
    actor |= {"action_scale": torch.ones(A), "action_bias": torch.zeros(A)}
    critics = [layers(("fc1", S + A, H), ("fc2", H, H), ("fc3", H, 1)) for _ in range(2)]
    torch.save((actor, *critics), folder / "td3_continuous_action.cleanrl_model")


def parameter_trees(folder):
    msgpack = pytest.importorskip("msgpack")

    def array(*shape):
        numbers = torch.randn(shape).div(4).numpy()
        return msgpack.ExtType(1, msgpack.packb((shape, "float32", numbers.tobytes()), use_bin_type=True))

    tree = {
        f"Dense_{i}": {"kernel": array(4, n, m), "bias": array(4, m)}
        for i, (n, m) in enumerate(pairwise([S + A, H, H, 1]))
    }
    tree |= {f"LayerNorm_{i}": {"scale": array(4, H), "bias": array(4, H)} for i in range(2)}
    content = msgpack.packb({"params": {"VmapCritic_0": tree}}, strict_types=True)
    (folder / "critic.msgpack").write_bytes(content)


def torchrl(folder):
    pytest.importorskip("torchrl")


FILES = {
    "corl": corl,
    "cleanrl": cleanrl,
    "torchrl": torchrl,
    "ensembles": lambda folder: None,
    "parameter-trees": parameter_trees,
}


@pytest.mark.parametrize("page", FILES)
def test_the_examples_of_a_page_run(page, tmp_path, monkeypatch):
    torch.manual_seed(0)
    FILES[page](tmp_path)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (PAGES / f"{page}.md").read_text(), re.DOTALL)
    assert blocks
    states, actions = random_pairs(S, A)
    generator = np.random.default_rng(0)
    episode = Episode(
        generator.normal(size=(9, S)), generator.normal(size=(8, A)), np.zeros(8), np.zeros(8), np.ones(8)
    )
    names = {"states": states, "actions": actions, "dataset": TrajectoryStore.from_episodes([episode])}
    for block in blocks:
        exec(compile(block, page, "exec"), names)
    before, after = (
        torch.cat(names["critic"](states, a), -1).min(-1).values for a in (actions, names["better"])
    )
    assert (after >= before).all() and (after > before).any()
