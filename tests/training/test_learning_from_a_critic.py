"""A run that learns from the critic of another: which critic it was is part of what the run is."""

import dataclasses
import json
import shutil

import pytest
import torch

from dtag_fast.algorithms.adt import Config as ADT
from dtag_fast.training import load_critic, load_policy, train
from dtag_fast.training.checkpoint import load_value
from dtag_fast.training.critic import load_trained_critic
from dtag_fast.training.files import read_json, read_tensors, write_json, write_tensors
from dtag_fast.training.state_tree import pack, unpack

SIZES = {"context_len": 3, "d_model": 8, "n_layer": 2, "n_head": 2, "max_timestep": 32, "batch_size": 4}


@pytest.fixture(scope="module")
def critic_run(store, configs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("critic") / "iql"
    return train("iql", store, config=configs["iql"], out=folder, updates=6, checkpoint_every=3)


def learn(store, configs, critic, out, updates=3, **options):
    config = dataclasses.replace(configs["dt"], q_weight=0.5)
    return train("dt", store, config=config, critic=critic, out=out, updates=updates, log_every=1, **options)


def test_the_run_says_which_critic_it_was(store, configs, critic_run, tmp_path):
    run = learn(store, configs, critic_run, tmp_path / "run")
    said = json.loads((run / "config.json").read_text())["critic"]
    crc = said.pop("crc32")
    assert said == {"algorithm": "iql", "step": 6, "seed": 0, "dataset_id": "toy/small-v0"}
    assert len(crc) == 8 and str(critic_run) not in (run / "config.json").read_text()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    names = ("q_loss", "q", "q_weight", "action_distance", "at_bounds")
    assert all({f"train/{name}" for name in names} <= row.keys() for row in rows)
    plain = train("dt", store, config=configs["dt"], out=tmp_path / "plain", updates=1)
    assert "critic" not in json.loads((plain / "config.json").read_text())


def test_a_resumed_run_ends_with_the_same_bits(store, configs, critic_run, tmp_path, assert_same_bits):
    whole = learn(store, configs, critic_run, tmp_path / "whole", updates=6)
    learn(store, configs, critic_run, tmp_path / "parts", updates=3)
    moved = shutil.copytree(critic_run, tmp_path / "elsewhere", symlinks=True)  # by content, not by its place
    parts = learn(store, configs, moved, tmp_path / "parts", updates=6, resume=True)
    assert_same_bits(whole, parts)


def test_another_critic_is_refused_on_resume(store, configs, critic_run, tmp_path):
    learn(store, configs, critic_run, tmp_path / "run")
    other = critic_run / "checkpoints" / "3"
    with pytest.raises(ValueError, match=r"resume: critic.step was 6 in .*, got 3"):
        learn(store, configs, other, tmp_path / "run", updates=6, resume=True)
    with pytest.raises(
        ValueError, match=r"critic: dt with q_weight = 0.5 learns from a trained critic, got None"
    ):
        learn(store, configs, None, tmp_path / "run", updates=6, resume=True)


def test_a_critic_of_other_data_is_refused(store, configs, critic_run, make_store, tmp_path):
    keyed = make_store(observation_keys=["observation"])
    with pytest.raises(
        ValueError, match=r"critic: expected the dataset's .*\['observation'\]\), got .* same data"
    ):
        learn(keyed, configs, critic_run, tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="expected a critic, this run of dt holds none"):
        run = train("dt", store, config=configs["dt"], out=tmp_path / "dt", updates=1)
        learn(store, configs, run, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_is_loaded_is_the_critic(store, critic_run):
    trained, _ = load_trained_critic(critic_run, store)
    states, actions = torch.randn(5, 3), torch.randn(5, 2)
    expected = load_critic(critic_run).critic(states, actions)
    assert all(map(torch.equal, trained.critic(states, actions), expected))
    assert torch.equal(trained.q(states, actions), torch.cat(expected, dim=1).amin(dim=1))
    assert torch.equal(trained.v(states), load_value(critic_run)(states)[:, 0])


def test_adt_takes_critic_and_value_of_a_run_and_carries_the_value(
    store, critic_run, tmp_path, assert_same_bits
):
    options = {"config": ADT(**SIZES), "critic": critic_run}
    whole = train("adt", store, out=tmp_path / "whole", updates=6, **options)
    train("adt", store, out=tmp_path / "parts", updates=4, **options)
    parts = train("adt", store, out=tmp_path / "parts", updates=6, resume=True, **options)
    assert_same_bits(whole, parts)
    model, info = load_policy(whole)
    states = torch.randn(5, 3)
    assert info.return_scale == 100.0 and info.target_returns == []
    torch.testing.assert_close(model.prompts(states), load_value(critic_run)(states) / 100)
    with pytest.raises(ValueError, match="critic: adt with its prompts learns from a trained critic"):
        train("adt", store, config=ADT(**SIZES), out=tmp_path / "none", updates=1)


def as_before_the_value_was_exported(run):
    """A checkpoint of IQL as older versions wrote it: V among what only a resumed training needs."""
    folder = (run / "checkpoints" / "last").resolve()
    config = read_json(folder / "config.json")
    del config["networks"]["value"]
    write_json(folder / "config.json", config)
    files = folder / "training_state" / "tensors.safetensors", folder / "training_state" / "state.json"
    state = unpack(read_tensors(files[0]), read_json(files[1]))
    state["learner"]["modules"]["value"] = read_tensors(folder / "value.safetensors")
    (folder / "value.safetensors").unlink()
    tensors, tree = pack(state)
    write_tensors(files[0], tensors)
    write_json(files[1], tree)
    return folder


def test_runs_of_iql_from_before_the_value_was_exported(
    store, configs, critic_run, tmp_path, assert_same_bits
):
    old = shutil.copytree(critic_run, tmp_path / "old", symlinks=True)
    folder = as_before_the_value_was_exported(old)
    assert load_value(old) is None
    with pytest.raises(ValueError, match="critic: adt needs the value network of an IQL run too"):
        train("adt", store, config=ADT(**SIZES), critic=old, out=tmp_path / "adt", updates=1)
    learn(store, configs, old, tmp_path / "dt")  # Q is there
    options = {"config": configs["iql"], "updates": 9, "resume": True}
    again = shutil.copytree(critic_run, tmp_path / "new", symlinks=True)
    assert_same_bits(train("iql", store, out=old, **options), train("iql", store, out=again, **options))
    assert torch.equal(load_value(old).net[0].weight, load_value(again).net[0].weight)

    shutil.rmtree(old / "checkpoints" / "9")
    state = folder / "training_state" / "state.json"
    tree = json.loads(state.read_text())
    (learner,) = (item for key, item in tree["dict"] if key == "learner")
    (modules,) = (item for key, item in learner["dict"] if key == "modules")
    modules["dict"] = [[key, item] for key, item in modules["dict"] if key != "value"]
    state.write_text(json.dumps(tree))
    tensors = read_tensors(state.with_name("tensors.safetensors"))
    tensors = {name: x for name, x in tensors.items() if not name.startswith("learner.modules.value.")}
    write_tensors(state.with_name("tensors.safetensors"), tensors)
    with pytest.raises(ValueError, match="networks: missing key 'value'"):
        train("iql", store, out=old, **options)
