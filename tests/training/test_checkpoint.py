"""Checkpoints: bit-identical networks back, no pickle, one clear error for everything that can be wrong."""

import dataclasses
import json
import shutil

import pytest
import torch

from dtag_fast.algorithms import create
from dtag_fast.training import load_critic, load_info, load_policy, train
from dtag_fast.training.checkpoint import FORMAT_VERSION, save_checkpoint


@pytest.fixture(scope="module")
def runs(store, configs, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return {
        name: train(name, store, config=config, out=root / name, updates=4, checkpoint_every=2)
        for name, config in configs.items()
    }


@pytest.fixture
def run(runs, tmp_path):
    """A copy of the Reinformer run that a test may damage."""
    shutil.copytree(runs["reinformer"], tmp_path / "run", symlinks=True)
    return tmp_path / "run"


def edit(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def windows(batch=5, steps=3):
    g = torch.Generator().manual_seed(0)
    return (
        torch.randn(batch, steps, 3, generator=g),
        torch.randn(batch, steps, 2, generator=g),
        torch.randn(batch, steps, 1, generator=g),
        torch.arange(steps).expand(batch, -1),
        torch.ones(batch, steps, dtype=torch.bool),
    )


@pytest.mark.parametrize("name", ["dt", "reinformer"])
def test_a_reloaded_policy_gives_the_same_bits(store, configs, tmp_path, name):
    run = train(name, store, config=configs[name], out=tmp_path / "run", updates=3)
    learner = create(name, store, configs[name])
    sampler, g = learner.make_sampler(store), torch.Generator()
    for _ in range(3):
        learner.update(sampler.sample(g))
    info = load_policy(run).info
    save_checkpoint(tmp_path / "other", info, learner.exports, learner.state_dict())
    learner.model.eval()
    for a, b in zip(
        learner.model.act(*windows()), load_policy(tmp_path / "other").model.act(*windows()), strict=True
    ):
        assert a is b is None or torch.equal(a, b)


def test_a_reloaded_critic_gives_the_same_bits(store, configs, tmp_path, runs):
    critic, info = load_critic(runs["iql"])
    save_checkpoint(tmp_path, info, {"critic": critic}, {})
    states, actions = torch.randn(6, 3), torch.randn(6, 2)
    for q, again in zip(critic(states, actions), load_critic(tmp_path).critic(states, actions), strict=True):
        assert torch.equal(q, again)


def test_info_says_what_acting_needs(store, make_store, configs, tmp_path):
    spec = {"id": "Toy-v0", "kwargs": {"size": 3}}
    rich = make_store(env_spec=spec, ref_min_score=-1.5, ref_max_score=9.0, fingerprint="f00d")
    model, info = load_policy(
        train("reinformer", rich, config=configs["reinformer"], out=tmp_path / "run", updates=2, seed=11)
    )
    mean, std = rich.state_statistics()
    assert torch.equal(torch.tensor(info.state_mean), torch.from_numpy(mean))
    assert torch.equal(torch.tensor(info.state_std), torch.from_numpy(std))
    assert torch.equal(
        model.normalize_states(torch.ones(3)),
        (torch.ones(3) - torch.from_numpy(mean)) / torch.from_numpy(std),
    )
    assert (info.algorithm, info.kind, info.step, info.seed) == ("reinformer", "policy", 2, 11)
    assert (info.action_low, info.action_high, info.context_len) == ([-1.0, -1.0], [1.0, 1.0], 3)
    assert info.return_scale == model.config.return_scale == pytest.approx(rich.episode_returns.max())
    assert info.best_return == pytest.approx(rich.episode_returns.max())
    assert (info.env_id, info.env_spec, info.max_episode_steps) == ("Toy-v0", spec, 20)
    assert (info.dataset_id, info.dataset_fingerprint) == ("toy/small-v0", "f00d")
    assert (info.ref_min_score, info.ref_max_score) == (-1.5, 9.0)
    assert info.config["expectile"] == 0.99 and info.format_version == FORMAT_VERSION
    assert info.versions["torch"] == torch.__version__
    assert not model.training


def test_critic_info_has_the_reward_scale(runs, store):
    info = load_critic(runs["iql"]).info
    spread = store.episode_returns.max() - store.episode_returns.min()
    assert info.reward_scale == pytest.approx(1000 / spread) and info.discount == 0.99
    assert info.kind == "critic"


def test_info_without_the_weights(runs, run):
    for name in ("dt", "iql"):
        assert load_info(runs[name]) == load_policy(runs[name]).info
    (run / LAST / "model.safetensors").unlink()
    assert load_info(run).step == 4 and load_info(run / "checkpoints" / "2").step == 2


def test_a_run_gives_its_newest_checkpoint_and_a_folder_itself(runs):
    run = runs["dt"]
    assert (run / "checkpoints" / "last").resolve().name == "4"
    assert load_policy(run).info.step == 4
    assert load_policy(run / "checkpoints" / "2").info.step == 2
    assert load_policy(str(run / "checkpoints" / "last")).info.step == 4


def test_nothing_in_a_run_is_pickled(runs):
    names = {path.suffix for run in runs.values() for path in run.rglob("*") if path.is_file()}
    assert names == {".json", ".jsonl", ".csv", ".safetensors"}


def test_asking_a_critic_for_a_policy_says_so(runs, store, configs, tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a critic, this run of dt holds none"):
        load_critic(runs["dt"])
    config = dataclasses.replace(configs["iql"], policy=False)
    critic = train("iql", store, config=config, out=tmp_path / "critic" / "run", updates=1)
    for load in (load_policy, load_info):
        with pytest.raises(FileNotFoundError, match="expected a policy, this run of iql holds none"):
            load(critic)
        with pytest.raises(FileNotFoundError, match="a run or a checkpoint folder, found no checkpoint"):
            load(tmp_path)


LAST = "checkpoints/4"


def rename_weight(path, old, new):
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    if new is None:
        del tensors[old]
    else:
        tensors[new] = tensors.pop(old)
    save_file(tensors, path)


def truncate(path, keep):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])


DAMAGE = {
    "missing weight": (
        lambda run: rename_weight(run / LAST / "model.safetensors", "return_head.bias", None),
        r"model\.safetensors: missing key 'return_head\.bias' \(1 in all\)",
    ),
    "foreign weight": (
        lambda run: rename_weight(run / LAST / "model.safetensors", "return_head.bias", "value_head.bias"),
        r"missing key 'return_head\.bias' .* foreign key 'value_head\.bias'",
    ),
    "weights of another size": (
        lambda run: edit(
            run / LAST / "config.json", lambda c: c["networks"]["model"]["config"].update(state_dim=5)
        ),
        r"expected shape",
    ),
    "weights cut in the middle": (
        lambda run: truncate(run / LAST / "model.safetensors", 0.5),
        r"model\.safetensors: damaged or truncated safetensors file",
    ),
    "weights empty": (
        lambda run: truncate(run / LAST / "model.safetensors", 0),
        r"model\.safetensors: damaged or truncated safetensors file",
    ),
    "weights absent": (
        lambda run: (run / LAST / "model.safetensors").unlink(),
        r"model\.safetensors: expected a safetensors file, there is none",
    ),
    "config cut in the middle": (
        lambda run: truncate(run / LAST / "config.json", 0.5),
        r"config\.json: damaged or truncated JSON",
    ),
    "config of a newer version": (
        lambda run: edit(run / LAST / "config.json", lambda c: c.update(format_version=FORMAT_VERSION + 1)),
        r"config\.json: written in format version 2, this dtag_fast reads up to version 1; upgrade it",
    ),
    "config without version": (
        lambda run: edit(run / LAST / "config.json", lambda c: c.pop("format_version")),
        r"config\.json: missing key 'format_version'",
    ),
    "foreign model setting": (
        lambda run: edit(
            run / LAST / "config.json", lambda c: c["networks"]["model"]["config"].update(rope=1)
        ),
        r"config\.json: config of Reinformer: .*'rope'",
    ),
    "missing model setting": (
        lambda run: edit(
            run / LAST / "config.json", lambda c: c["networks"]["model"]["config"].pop("action_dim")
        ),
        r"config\.json: config of Reinformer: .*'action_dim'",
    ),
    "unknown network": (
        lambda run: edit(run / LAST / "config.json", lambda c: c["networks"]["model"].update(type="Mamba")),
        r"config\.json: network type: expected one of .*, got 'Mamba'",
    ),
    "missing fact": (
        lambda run: edit(run / LAST / "config.json", lambda c: c["info"].pop("state_mean")),
        r"config\.json: info: missing key 'state_mean'",
    ),
    "foreign fact": (
        lambda run: edit(run / LAST / "config.json", lambda c: c["info"].update(colour="red")),
        r"config\.json: info: foreign key 'colour'",
    ),
}

# What is wrong with the facts, not with the network.
FACTS = [name for name in DAMAGE if name.startswith("config ") or name.endswith(" fact")]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_one_clear_error(run, damage):
    inflict, message = DAMAGE[damage]
    inflict(run)
    for load in (load_policy, load_info) if damage in FACTS else (load_policy,):
        with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
            load(run)
        assert "\n" not in str(caught.value)


RESUME_DAMAGE = {
    "tensors cut": (
        lambda run: truncate(run / LAST / "training_state/tensors.safetensors", 0.9),
        r"tensors\.safetensors: damaged or truncated",
    ),
    "tree cut": (
        lambda run: truncate(run / LAST / "training_state/state.json", 0.5),
        r"state\.json: damaged or truncated JSON",
    ),
    "tree of another run": (
        lambda run: (
            shutil.copy(run / "checkpoints/2/training_state/state.json", run / LAST / "training_state/x")
            and rename_weight(run / LAST / "training_state/tensors.safetensors", "generator", "noise")
        ),
        r"training_state: missing tensor 'generator' for state\.json",
    ),
    "newer checkpoint": (DAMAGE["config of a newer version"][0], "written in format version 2"),
    "newer run": (
        lambda run: edit(run / "config.json", lambda c: c.update(format_version=9)),
        "written in format version 9",
    ),
}


@pytest.mark.parametrize("damage", RESUME_DAMAGE)
def test_a_damaged_run_is_not_resumed_and_not_touched(run, store, configs, damage):
    inflict, message = RESUME_DAMAGE[damage]
    inflict(run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=message):
        train(
            "reinformer",
            store,
            config=configs["reinformer"],
            out=run,
            updates=8,
            checkpoint_every=2,
            resume=True,
        )
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
