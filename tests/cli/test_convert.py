"""From another code's weights to scores through the command alone."""

import json

import gymnasium
import numpy as np
import pytest
import torch
from foreign_decision_transformers import (
    CorlDecisionTransformer,
    KzlDecisionTransformer,
    MinDecisionTransformer,
    randomised,
)

from dtag_fast.training import load_policy

DATASET = "test/pendulum-v0"
ENV_ID = "InvertedPendulum-v5"  # S 4, A 1, actions in [-3, 3]
SIZES = {"state_dim": 4, "act_dim": 1}
MEAN, STD = [-0.1, 0.2, 0.0, 1.5], [1.0, 2.0, 0.5, 3.0]
STATISTICS = "--state-mean {} --state-std {}".format(*(",".join(map(str, x)) for x in (MEAN, STD)))


@torch.no_grad()
def play(forward, env_id, mean, std, k, target, scale, seed, pad_to=0):
    """One episode as the published loops play it: the whole history is kept, the last K steps are given.

    forward(states, actions, returns, timesteps, mask) -> actions (1, K, A). pad_to: steps to which a window
    is filled up on the left.
    """
    env = gymnasium.make(env_id)
    mean, std = torch.tensor(mean), torch.tensor(std)
    states, actions, returns = [torch.as_tensor(env.reset(seed=seed)[0]).float()], [], [target / scale]
    rewards, over = [], False
    while not over:
        actions.append(torch.zeros(env.action_space.shape))
        first = max(0, len(states) - k)
        steps = len(states) - first
        window = [
            ((torch.stack(states) - mean) / std)[first:],
            torch.stack(actions)[first:],
            torch.tensor(returns).float()[first:, None],
            torch.arange(len(states))[first:],
            torch.ones(steps, dtype=torch.bool),
        ]
        missing = max(0, pad_to - steps)
        window = [torch.cat([torch.zeros(missing, *x.shape[1:], dtype=x.dtype), x])[None] for x in window]
        actions[-1] = forward(*window)[0, -1]
        state, reward, terminated, truncated, _ = env.step(actions[-1].numpy())
        states.append(torch.as_tensor(state).float())
        rewards.append(reward)
        returns.append(returns[-1] - reward / scale)
        over = terminated or truncated
    env.close()
    return torch.stack(actions), sum(rewards)


def played_here(run, target, seed, steps):
    """Actions of the converted run's first steps in its environment, by what evaluation acts with."""
    from dtag_fast.rollout.environments import make_env
    from dtag_fast.rollout.policy import SequencePolicy

    policy = load_policy(run)
    env = make_env(policy.info.env_id)
    acting = SequencePolicy(policy.model, 1, target)
    state, actions = env.reset(seed=seed)[0], []
    for _ in range(steps):
        action = acting.act(state[None].astype(np.float32), np.ones(1, bool))
        actions.append(torch.from_numpy(action[0].copy()))
        state, reward, *_ = env.step(action[0])
        acting.record(action, np.array([reward]), np.ones(1, bool))
    env.close()
    return torch.stack(actions)


def saved(kind, tmp_path, **more):
    """(module, path) of a policy of the inverted pendulum, or of other sizes."""
    module = randomised(kind(**SIZES | more))
    torch.save(module.state_dict(), tmp_path / "theirs.pt")
    return module, tmp_path / "theirs.pt"


@pytest.mark.parametrize(
    ("kind", "longest"),
    [
        (KzlDecisionTransformer, {"max_ep_len": 200}),
        (MinDecisionTransformer, {"max_timestep": 200}),
        (CorlDecisionTransformer, {"episode_len": 200}),
    ],
)
def test_a_converted_run_plays_as_its_source(dtag, tmp_path, kind, longest):
    """Whole episodes of Pendulum-v1: 200 steps, 50 times the context."""
    mean, std, target = [0.1, -0.2, 0.5], [0.7, 0.6, 3.0], -300.0
    module, path = saved(kind, tmp_path, heads=2, state_dim=3, **longest)
    statistics = "--state-mean {} --state-std {}".format(*(",".join(map(str, x)) for x in (mean, std)))
    told = "--context-len 4" if kind is KzlDecisionTransformer else ""
    options = f"--return-scale 100 --target-returns -150,-300 --n-head 2 {told}"
    code, out, err = dtag(f"convert {path} run --env Pendulum-v1 {statistics} {options}")
    assert (code, err) == (0, "") and "2 blocks, width 16, heads 2, K 4" in out and "run folder: run" in out
    info = load_policy("run").info
    assert (info.algorithm, info.env_id, info.context_len) == ("dt", "Pendulum-v1", 4)
    assert (info.action_low, info.action_high) == ([-2.0], [2.0])
    assert info.target_returns == [-150.0, -300.0]
    pad_to = 4 if kind is KzlDecisionTransformer else 0
    theirs, total = play(module, "Pendulum-v1", mean, std, 4, target, 100.0, seed=5, pad_to=pad_to)
    assert theirs.std() > 0.05
    torch.testing.assert_close(played_here("run", target, 5, 200), theirs, rtol=0, atol=1e-4)
    code, _, err = dtag("evaluate run --episodes 1 --seed 5 --target-returns -300 --json out.json")
    assert (code, err) == (0, "")
    (result,) = json.loads((tmp_path / "out.json").read_text())["checkpoints"]
    assert result["settings"][0]["returns"] == pytest.approx([total])


def test_hugging_faces_own_model_plays_as_its_documentation_says(dtag, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers")
    config = transformers.DecisionTransformerConfig(
        state_dim=11, act_dim=3, hidden_size=16, n_layer=2, n_head=2, max_ep_len=1000
    )
    model = randomised(transformers.DecisionTransformerModel(config))
    model.save_pretrained(tmp_path / "theirs")
    capsys.readouterr()  # what the library says of its own
    mean, std = np.linspace(-1, 1, 11), np.linspace(0.5, 2, 11)
    shown = "--state-mean {} --state-std {}".format(*(",".join(map(str, x)) for x in (mean, std)))
    options = "--return-scale 1000 --target-returns 3600 --context-len 20"
    code, _, err = dtag(f"convert theirs run --env Hopper-v5 {shown} {options}")
    assert (code, err) == (0, "")

    def forward(states, actions, returns, timesteps, mask):
        return model(
            states=states,
            actions=actions,
            rewards=torch.zeros_like(returns),
            returns_to_go=returns,
            timesteps=timesteps,
            attention_mask=mask.long(),
            return_dict=False,
        )[1]

    theirs, total = play(
        forward,
        "Hopper-v5",
        mean.astype(np.float32),
        std.astype(np.float32),
        20,
        3600.0,
        1000.0,
        3,
        pad_to=20,
    )
    here = played_here("run", 3600.0, 3, len(theirs))
    assert len(theirs) > 5 and theirs.std() > 0.05
    torch.testing.assert_close(here, theirs, rtol=0, atol=1e-4)
    assert dtag("evaluate run --episodes 1 --seed 3 --json out.json")[0] == 0
    (result,) = json.loads((tmp_path / "out.json").read_text())["checkpoints"]
    assert result["settings"][0]["returns"] == pytest.approx([total], rel=1e-3)


def test_a_dataset_tells_statistics_bounds_environment_and_references(dtag, tmp_path):
    from dtag_fast.data import load_dataset

    _, path = saved(MinDecisionTransformer, tmp_path)
    code, out, err = dtag(f"convert {path} run --data {DATASET} --return-scale 50")
    assert (code, err) == (0, "") and "note: states are standardised by the statistics of the dataset" in out
    policy, store = load_policy("run"), load_dataset(DATASET)
    mean, std = store.state_statistics()
    assert np.array_equal(policy.model.normalizer.mean.numpy(), mean)
    assert np.array_equal(policy.info.state_std, std.tolist())
    assert policy.info.target_returns == [store.episode_returns.max()]
    assert (policy.info.dataset_id, policy.info.ref_max_score) == (DATASET, 1000.0)
    assert dtag("export run --pretrained folder")[0] == 0
    card = (tmp_path / "folder" / "README.md").read_text()
    assert f"converted from `min-decision-transformer`, trained on `{DATASET}`." in card
    assert "| converted with |" in card and "| seed |" not in card and "0 updates" not in card
    published = [file.read_bytes() for file in (tmp_path / "folder").iterdir()]
    assert not any(str(tmp_path).encode() in content for content in published)  # no path of this machine
    # The network's own actions stay in [-1, 1]; Action Gradient may go to the bounds of the data.
    assert (policy.info.action_low, policy.info.action_high) == ([-3.0], [3.0])
    assert policy.model.action_bounds.half_range.tolist() == [1.0]

    code, _, _ = dtag(f"train iql {DATASET} --out critic --updates 5 --hidden 16 16 --batch-size 8")
    assert code == 0
    code, _, err = dtag("evaluate run --critic critic --ag-steps 0,3 --episodes 2 --json out.json")
    assert (code, err) == (0, "")
    (result,) = json.loads((tmp_path / "out.json").read_text())["checkpoints"]
    assert [len(s["returns"]) for s in result["settings"]] == [2, 2]
    assert min(result["settings"][1]["mean_q_gain"]) > 0 and result["settings"][0]["normalized"]


def test_an_environment_beside_a_dataset_is_played_as_registered(dtag, tmp_path):
    """The references of the data are those of their own environment."""
    _, path = saved(MinDecisionTransformer, tmp_path)
    line = f"convert {path} run --data {DATASET} --env InvertedPendulum-v4 --return-scale 50"
    assert dtag(line)[0] == 0
    info = load_policy("run").info
    assert (info.env_id, info.dataset_id) == ("InvertedPendulum-v4", DATASET)
    assert info.env_spec is info.max_episode_steps is info.ref_max_score is None
    code, out, _ = dtag("evaluate run --episodes 1")
    assert code == 0 and "normalised: none" in out


def test_corls_checkpoint_brings_its_statistics(dtag, tmp_path):
    module = randomised(CorlDecisionTransformer(**SIZES, max_action=3.0))
    content = {
        "model_state": module.state_dict(),
        "state_mean": np.array([MEAN]),
        "state_std": np.array([STD]),
    }
    torch.save(content, tmp_path / "dt_checkpoint.pt")
    line = f"convert dt_checkpoint.pt run --env {ENV_ID} --return-scale 1000 --max-action 3 --n-head 1"
    code, out, err = dtag(line)
    assert (code, err) == (0, "") and "no target returns are known" in out
    info = load_policy("run").info
    assert np.allclose(info.state_mean, MEAN) and np.allclose(info.state_std, STD)
    code, _, err = dtag("evaluate run --episodes 1")
    assert code == 2 and "needs at least one return to aim for" in err
    assert dtag("evaluate run --episodes 1 --target-returns 30")[0] == 0


def test_an_online_decision_transformer_by_a_key_map_is_fine_tuned(dtag, tmp_path):
    from dtag_fast.models import OnlineDecisionTransformer, OnlineDecisionTransformerConfig

    config = {"context_len": 3, "d_model": 16, "n_layer": 2, "n_head": 2, "max_timestep": 4096}
    model = randomised(
        OnlineDecisionTransformer(OnlineDecisionTransformerConfig(state_dim=4, action_dim=1, **config))
    )
    tensors = {
        f"agent.{name}": tensor
        for name, tensor in model.state_dict().items()
        if not name.startswith(("normalizer.", "action_bounds."))
    }
    torch.save(tensors, tmp_path / "theirs.pt")
    keys = {
        name.replace(".0.", ".{n}."): name.removeprefix("agent.").replace(".0.", ".{n}.") for name in tensors
    }
    settings = {"n_head": 2, "context_len": 3}
    described = {"algorithm": "odt", "settings": settings, "keys": keys}
    (tmp_path / "keys.json").write_text(json.dumps(described))
    line = f"convert theirs.pt run --keys keys.json --data {DATASET} --return-scale 100 --target-returns 50"
    code, out, err = dtag(line)
    assert (code, err) == (0, "") and "weights mapped by keys.json: odt" in out
    assert dtag("evaluate run --episodes 1")[0] == 0
    quick = "--updates-per-iteration 2 --batch-size 4 --eval-episodes 0 --env-steps 5"
    code, _, err = dtag(f"finetune run --algo odt --out online --data {DATASET} {quick}")
    assert code == 0, err
    assert dtag("evaluate online --episodes 1")[0] == 0


def test_a_drafted_key_map_serves_as_it_is_where_all_is_told(dtag, tmp_path):
    _, path = saved(MinDecisionTransformer, tmp_path)
    code, out, err = dtag(f"convert {path} --draft-keys keys.json")
    assert (code, err) == (0, "") and "keys.json: a key map for dt with" in out and "to decide" not in out
    assert dtag(f"convert {path} --draft-keys keys.json")[0] == 2  # it is not written over
    told = f"--env {ENV_ID} {STATISTICS} --return-scale 100 --target-returns 50"
    for run, more in (("drafted", "--keys keys.json --activation gelu"), ("known", "")):
        code, _, err = dtag(f"convert {path} {run} {told} {more}")
        assert (code, err) == (0, "")
    drafted, known = (load_policy(tmp_path / run).model.state_dict() for run in ("drafted", "known"))
    assert all(torch.equal(drafted[name], tensor) for name, tensor in known.items())


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("theirs.pt", "RUN, --return-scale: expected both"),
        ("theirs.pt run --draft-keys keys.json", "--draft-keys: it writes a key map alone"),
        ("theirs.pt run", "--data, --env: expected one of them, got neither"),
        (f"theirs.pt run --env {ENV_ID}", "the source does not hold what states were standardised by"),
        (f"theirs.pt run --env {ENV_ID} --state-mean 0", "state_mean, state_std: expected both or none"),
        (f"theirs.pt run --env {ENV_ID} --state-mean x --state-std 1", "--state-mean: expected numbers"),
        (
            "theirs.pt run --env Hopper-v5 --state-mean 0 --state-std 1",
            "= (4, 1), those of the policy's weights",
        ),
        ("theirs.pt run --env CartPole-v1 --state-mean 0 --state-std 1", "has the action space Discrete(2)"),
        ("theirs.pt run --env Nope-v0 --state-mean 0 --state-std 1", "Nope"),
        ("theirs.pt run --data none/such-v0", "none/such-v0"),
        (f"nowhere.pt run --env {ENV_ID} {STATISTICS}", "nowhere.pt: expected a file or folder"),
        (f"theirs.pt used --env {ENV_ID} {STATISTICS}", "used is not empty"),
        (f"theirs.pt theirs.pt --env {ENV_ID} {STATISTICS}", "theirs.pt is a file; choose another folder"),
        (f"theirs.pt run --env {ENV_ID} {STATISTICS} --return-scale 0", "return_scale: expected a positive"),
        (f"theirs.pt run --env {ENV_ID} {STATISTICS} --keys no.json", "no.json: expected a file"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_leaves_nothing(dtag, tmp_path, line, sentence):
    saved(MinDecisionTransformer, tmp_path)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    scale = "" if "--return-scale" in line else "--return-scale 100"
    code, _, err = dtag(f"convert {line} {scale}")
    assert code == 2 and sentence in err and err.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["theirs.pt", "used"]


def test_discrete_data_are_refused(dtag, tmp_path, cartpole_file):
    _, path = saved(MinDecisionTransformer, tmp_path)
    code, _, err = dtag(f"convert {path} run --data {cartpole_file} --return-scale 100")
    assert code == 2 and "its actions are discrete" in err
