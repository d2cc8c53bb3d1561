"""What docs/migrate.md tells people to type works: its commands and code are run, small and short."""

import json
import pickle
import re
import shlex
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from foreign_decision_transformers import (
    CorlDecisionTransformer,
    KzlDecisionTransformer,
    MinDecisionTransformer,
    randomised,
    windows,
    with_positions,
)
from safetensors.torch import save_file
from torch import nn

from dtag_fast.cli.main import main
from dtag_fast.models import Reinformer, ReinformerConfig

PAGE = Path(__file__).parents[2] / "docs" / "migrate.md"
SIZES = {"state_dim": 11, "act_dim": 3, "max_ep_len": 1000}
SMALL = {"dt": "--d-model 16 --context-len 4", "iql": "--hidden 8 8"}


def blocks(section: str, language: str) -> list[str]:
    """Code blocks under a heading of the page."""
    (text,) = [part for part in PAGE.read_text().split("\n## ")[1:] if part.startswith(section + "\n")]
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def run_commands(section: str) -> None:
    """All `dtag` lines of a section, with fewer updates and episodes."""
    lines = [line for block in blocks(section, "sh") for line in block.splitlines()]
    assert lines
    for line in lines:
        program, *arguments = shlex.split(line.replace("--episodes 10", "--episodes 1"))
        assert program == "dtag"
        if arguments[0] == "train":
            arguments += shlex.split(f"--updates 2 --batch-size 4 {SMALL[arguments[1]]}")
        assert main(arguments) == 0, line


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working folder with a root of datasets."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("DTAG_CACHE", str(tmp_path / "cache"))
    (tmp_path / "minari").mkdir()
    return tmp_path


@pytest.fixture
def pickled(folder):
    """hopper-medium-v2.pkl as the original code downloads it: a few episodes of a random policy."""
    env, rng, episodes = gymnasium.make("Hopper-v4"), np.random.default_rng(0), []
    for seed in range(6):
        rows, over = [], False
        observation, _ = env.reset(seed=seed)
        while not over:
            action = rng.uniform(-1, 1, 3).astype(np.float32)
            after, reward, terminal, truncated, _ = env.step(action)
            rows.append((observation, after, action, reward, terminal))
            observation, over = after, terminal or truncated
        names = ("observations", "next_observations", "actions", "rewards", "terminals")
        episodes.append({name: np.array(x) for name, x in zip(names, zip(*rows, strict=True), strict=True)})
    (folder / "hopper-medium-v2.pkl").write_bytes(pickle.dumps(episodes))
    return folder


@pytest.fixture
def imported(pickled):
    assert main(shlex.split("data import hopper-medium-v2.pkl --id d4rl/hopper-medium-v2")) == 0
    return pickled


class Twin(nn.Module):
    def __init__(self):
        super().__init__()
        self.q1, self.q2 = (
            nn.Sequential(nn.Linear(14, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
            for _ in range(2)
        )

    def forward(self, states, actions):
        x = torch.cat([states, actions], -1)
        return self.q1(x), self.q2(x)


@pytest.fixture
def typed():
    """Names that code on the page takes for granted."""
    torch.manual_seed(0)
    names = {"torch": torch, "np": np, "critic": Twin(), "states": torch.randn(5, 11)}
    return names | {"actions": torch.rand(5, 3) * 2 - 1}


def test_the_loop_and_refine_give_the_same(typed):
    loop, call = blocks("A loop of autograd calls", "python")
    exec(loop, typed)
    exec(call, typed)
    expected = typed["improve"](typed["critic"], typed["states"], typed["actions"], 10, 0.03)
    torch.testing.assert_close(typed["refined"], expected, rtol=1e-5, atol=1e-6)
    assert (expected - typed["actions"]).abs().max() > 1e-3


def test_names_in_the_table_exist():
    import dtag_fast

    assert all(
        hasattr(dtag_fast, name)
        for name in ("Adam", "SGD", "RMSprop", "ClipNorm", "Refiner", "explain", "refine")
    )


def test_kzl(pickled):
    torch.save(randomised(KzlDecisionTransformer(**SIZES)).state_dict(), "kzl.pt")
    run_commands("kzl/decision-transformer")


def test_min_decision_transformer(imported):
    module = MinDecisionTransformer(state_dim=11, act_dim=3, max_timestep=1000)
    torch.save(randomised(module).state_dict(), "dt_hopper-medium-v2_model.pt")
    run_commands("min-decision-transformer")


def test_corl(folder):
    module = randomised(CorlDecisionTransformer(state_dim=11, act_dim=3, episode_len=1000))
    content = {
        "model_state": module.state_dict(),
        "state_mean": np.zeros((1, 11)),
        "state_std": np.ones((1, 11)),
    }
    path = folder / "checkpoints" / "DT-hopper-medium-v2"
    path.mkdir(parents=True)
    torch.save(content, path / "dt_checkpoint.pt")
    run_commands("CORL")


def test_corls_critic(folder, typed):
    theirs, tensors = typed["critic"], {}
    for member in ("q1", "q2"):
        for name, tensor in getattr(theirs, member).state_dict().items():
            tensors[f"{member}.net.{name}"] = tensor
    actor = nn.Sequential(nn.Linear(11, 32), nn.ReLU(), nn.Linear(32, 3)).state_dict()
    state = {"qf": tensors, "actor": {f"net.net.{name}": tensor for name, tensor in actor.items()}}
    torch.save(state | {"total_it": 1_000_000}, "checkpoint_999999.pt")
    typed |= {"state_mean": np.linspace(-1, 1, 11), "state_std": np.linspace(0.5, 2, 11)}
    (code,) = blocks("CORL", "python")
    exec(code, typed)
    standardised = (typed["states"] - typed["critic"].scale_states.shift) / typed["critic"].scale_states.scale
    before, after = (torch.min(*theirs(standardised, typed[name])) for name in ("actions", "refined"))
    assert (after >= before).all() and (after > before).any()


def test_d3rlpys_critic(folder, typed, monkeypatch):
    d3rlpy = pytest.importorskip("d3rlpy")
    sac = d3rlpy.algos.SACConfig().create(device="cpu")
    sac.create_impl((11,), 3)
    sac.save("model.d3")
    exec(blocks("d3rlpy", "python")[0], typed)
    states = typed["states"].numpy()
    before, after = (sac.predict_value(states, typed[name].numpy()) for name in ("actions", "refined"))
    assert after.mean() > before.mean()


def test_a_policy_in_a_loop_of_ones_own(folder, typed):
    torch.save(randomised(KzlDecisionTransformer(**SIZES)).state_dict(), "kzl.pt")
    line = "convert kzl.pt runs/dt --env Hopper-v4 --return-scale 1000 --state-mean 0 --state-std 1"
    assert main(line.split()) == 0
    typed["env"] = gymnasium.make("Hopper-v4")
    exec(blocks("d3rlpy", "python")[1], typed)
    assert typed["over"] and typed["acting"].history.lengths[0] > 1


def test_hugging_faces_folder(folder):
    _, tensors, config = with_positions(**SIZES)
    path = folder / "decision-transformer-gym-hopper-medium"
    path.mkdir()
    save_file(tensors, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(config))
    run_commands("Hugging Face")


def test_hugging_faces_model(typed, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers")
    config = transformers.DecisionTransformerConfig(state_dim=3, act_dim=2, hidden_size=16, max_ep_len=50)
    typed["model"] = randomised(transformers.DecisionTransformerModel(config))
    typed |= windows(context_len=20, padding="left")
    (code,) = blocks("Hugging Face", "python")
    exec(code, typed)
    with torch.no_grad():
        expected = typed["model"](
            states=typed["states"],
            actions=typed["actions"],
            rewards=torch.zeros_like(typed["returns_to_go"]),
            returns_to_go=typed["returns_to_go"],
            timesteps=typed["timesteps"],
            attention_mask=typed["mask"].long(),
        ).action_preds[:, -1]
    torch.testing.assert_close(typed["action"], expected, rtol=0, atol=1e-5)


def test_the_key_map(imported):
    """A Reinformer under the names on the left side of the page's map: the map is drafted, and serves."""
    (text,) = blocks("Reinformer, Online Decision Transformer and others", "json")
    config = ReinformerConfig(state_dim=11, action_dim=3, d_model=16, n_layer=2, max_timestep=1000)
    tensors = {"to_state.weight": torch.ones(11, 16), "to_state.bias": torch.ones(11)}
    tensors["net.0.attn.mask"] = torch.ones(15, 15)
    rules = json.loads(text)["keys"]
    for name, tensor in randomised(Reinformer(config)).state_dict().items():
        if ".qkv." in name:
            pieces = zip("qkv", tensor.chunk(3), strict=True)
            named = {name.replace(".qkv.", f".{part}."): piece for part, piece in pieces}
        else:
            named = {name: tensor}
        for ours, value in named.items():
            number, kind = re.search(r"blocks\.(\d+)", ours), ours.rpartition(".")[2]
            pattern = re.sub(r"blocks\.\d+", "blocks.{n}", ours).removesuffix(kind) + "{p}"
            for theirs, target in rules.items():
                if target in (pattern, ours):
                    left = theirs.replace("{n}", number[1] if number else "").replace("{p}", kind)
                    tensors[left] = value
    torch.save(tensors, "model.pt")
    run_commands("Reinformer, Online Decision Transformer and others")
    page, draft = json.loads(text), json.loads(Path("keys.json").read_text())
    assert page["settings"].pop("n_head") == 8  # which no tensor tells
    assert draft == page
