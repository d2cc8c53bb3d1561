"""A critic of another library, from its file to an evaluation with Action Gradient, by the command alone."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from dtag_fast.data import load_dataset
from dtag_fast.training import load_critic

DATASET = "test/pendulum-v0"
ENV_ID = "InvertedPendulum-v5"  # S 4, A 1, actions in [-3, 3]
S, A, H = 4, 1, 8
TRAIN = f"train bc {DATASET} --updates 2 --batch-size 4 --hidden 8 8 --out policy"


def corl_td3_bc(path):
    """What CORL's script saves of its critics and actor."""
    networks = {
        name: nn.Sequential(nn.Linear(width, H), nn.ReLU(), nn.Linear(H, H), nn.ReLU(), nn.Linear(H, 1))
        for name, width in (("critic_1", S + A), ("critic_2", S + A), ("actor", S))
    }
    content = {
        name: {f"net.{key}": tensor for key, tensor in network.state_dict().items()}
        for name, network in networks.items()
    }
    torch.save(content | {"total_it": 3}, path)
    return networks


def test_corls_critic_is_converted_and_climbed(dtag, tmp_path):
    networks = corl_td3_bc(tmp_path / "checkpoint_9.pt")
    code, out, err = dtag(f"convert-critic checkpoint_9.pt critic --data {DATASET} --state-eps 0.001")
    assert (code, err) == (0, "")
    assert f"CORL TD3+BC: S 4, A 1, 2 members, {ENV_ID}" in out
    mean, std = load_dataset(DATASET).state_statistics(eps=1e-3)
    s, a = torch.randn(5, S), torch.randn(5, A)
    x = torch.cat([(s - torch.from_numpy(np.float32(mean))) / torch.from_numpy(np.float32(std)), a], 1)
    critic = load_critic("critic").critic
    for name, q in zip(("critic_1", "critic_2"), critic(s, a), strict=True):
        torch.testing.assert_close(q, networks[name](x), rtol=1e-5, atol=1e-5)

    assert dtag(TRAIN)[0] == 0
    line = "evaluate policy --critic critic --ag-steps 0,3 --ag-lr 0.05 --episodes 1 --json scores.json"
    code, _, err = dtag(line)
    assert code == 0, err
    (result,) = json.loads((tmp_path / "scores.json").read_text())["checkpoints"]
    assert result["critic"]["algorithm"] == "CORL TD3+BC"
    plain, refined = result["settings"]
    assert np.mean(refined["mean_q_gain"]) > 0 and plain["label"] != refined["label"]
    code, _, err = dtag("sweep policy --critic critic --ag-steps 0,2 --ag-lr 0.05 --episodes 1 --jobs 1")
    assert code == 0, err


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("convert-critic checkpoint_9.pt run", "--data, --env: expected one of them, got neither"),
        (f"convert-critic checkpoint_9.pt run --env {ENV_ID}", "state_mean, state_std: CORL TD3+BC"),
        (f"convert-critic none.zip run --env {ENV_ID}", "none.zip"),
        (
            f"convert-critic checkpoint_9.pt run --env {ENV_ID} --state-mean x",
            "--state-mean: expected numbers",
        ),
        (
            "convert-critic checkpoint_9.pt run --env Hopper-v5 --state-mean 0 --state-std 1",
            "action_dim: expected 1",
        ),
        ("evaluate policy --critic checkpoint_9.pt", "it is a file (`dtag convert`, `dtag convert-critic`"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_leaves_nothing(dtag, tmp_path, line, sentence):
    corl_td3_bc(tmp_path / "checkpoint_9.pt")
    if line.startswith("evaluate"):
        assert dtag(TRAIN)[0] == 0
    before = sorted(tmp_path.iterdir())
    code, _, err = dtag(line)
    assert code == 2 and sentence in err and err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before
