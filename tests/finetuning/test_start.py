"""What a fine-tuning takes over from the run it begins with."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from dtag_fast.finetuning.start import ALPHA, begin, online_algorithms, resolved_config
from dtag_fast.training import checkpoint, load_policy, train
from dtag_fast.training.checkpoint import load_critic


def same(module, other) -> bool:
    ours, theirs = module.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_the_algorithms():
    assert online_algorithms() == ["odt", "td3-odt", "ddpg-odt", "td3", "sac-odt", "awac-odt", "iql-odt"]


@pytest.mark.parametrize("algorithm", ["odt", "td3-odt", "iql-odt"])
def test_the_same_algorithm_goes_on_as_a_whole(trained, store, algorithm):
    run = trained(algorithm)
    start = begin(run, algorithm, store)
    saved = load_file(run / "checkpoints" / "last" / "training_state" / "tensors.safetensors")
    optimizer = start.learner.optimizers["model"].state_dict()["state"][0]
    assert start.learner.updates_done == 3
    assert start.identity["took"] == "everything, optimizers too"
    assert same(start.learner.exports["model"], load_policy(run).model)
    assert any(torch.equal(optimizer["exp_avg"], tensor) for tensor in saved.values())


def test_another_algorithm_takes_the_policy_and_begins_a_critic(trained, store, small_config):
    run = trained("odt")
    config = dataclasses.replace(
        resolved_config(load_policy(run).info, "td3-odt", store.metadata), critic_hidden=(8,)
    )
    learner = begin(run, "td3-odt", store, config).learner
    assert learner.updates_done == 0
    assert same(learner.exports["model"], load_policy(run).model)
    assert same(learner.modules["target_model"], load_policy(run).model)
    assert same(learner.modules["target"], learner.exports["critic"])


def test_another_algorithm_takes_a_critic_of_its_own_shape(trained, store):
    run = trained("td3-odt")
    start = begin(run, "sac-odt", store)
    assert start.identity["took"] == "policy and critic"
    for name in ("critic", "target"):
        assert same(start.learner.modules[name], load_critic(run).critic)


def test_a_critic_of_its_own(trained, store, small_config, tmp_path):
    other = train("td3-odt", store, config=small_config("td3-odt"), out=tmp_path / "other", updates=2, seed=7)
    learner = begin(trained("td3-odt"), "td3-odt", store, critic=other).learner
    assert same(learner.exports["critic"], load_critic(other).critic)
    assert same(learner.modules["target"], load_critic(other).critic)
    assert same(learner.exports["model"], load_policy(trained("td3-odt")).model)


@pytest.fixture
def read(monkeypatch):
    """Files of numbers in the order in which they are read."""
    files, read_tensors = [], checkpoint.read_tensors
    monkeypatch.setattr(checkpoint, "read_tensors", lambda path: files.append(path) or read_tensors(path))
    return files


@pytest.mark.parametrize(
    "source, algorithm, files",
    [
        ("td3-odt", "td3-odt", ["critic", "model", "tensors"]),
        ("iql-odt", "iql-odt", ["critic", "model", "tensors", "value"]),
        ("td3-odt", "sac-odt", ["critic", "model"]),
        ("td3-odt", "odt", ["model"]),
    ],
)
def test_every_file_of_numbers_is_read_once(trained, store, read, source, algorithm, files):
    begin(trained(source), algorithm, store)
    assert sorted(path.stem for path in read) == files


def test_a_critic_that_is_given_is_read_in_place_of_the_one_of_the_run(trained, store, read):
    run, other = trained("td3-odt"), trained("sac-odt")
    begin(run, "td3-odt", store, critic=other)
    assert [(path.stem, path.is_relative_to(run)) for path in read] == [("model", True), ("critic", False)]


def test_settings_come_from_the_run_then_from_the_preset(trained, store):
    info = load_policy(trained("odt")).info
    config = resolved_config(info, "td3-odt", store.metadata)
    assert (config.d_model, config.batch_size, config.context_len) == (8, 4, 4)
    assert config.critic_hidden == (256, 256) and config.alpha == ALPHA
    assert config.return_scale == info.return_scale and list(config.target_returns) == info.target_returns


def test_how_far_it_looks_back_is_that_of_the_run_and_may_be_changed(trained, store):
    info = load_policy(trained("odt")).info
    del info.config["eval_context_len"]  # the preset's is 5, more than the windows of the run
    config = resolved_config(info, "td3-odt", store.metadata)
    assert (config.eval_context_len, config.context_len) == (2, 4)
    config = dataclasses.replace(config, eval_context_len=1, context_len=1, critic_hidden=(8,))
    learner = begin(trained("odt"), "td3-odt", store, config).learner
    for model in (learner.exports["model"], learner.modules["target_model"]):
        assert same(model, load_policy(trained("odt")).model) and model.config.context_len == 1


@pytest.mark.parametrize(
    "source, algorithm, change, sentence",
    [
        ("dt", "odt", {}, "run: expected one of odt, .*, got a run of dt"),
        ("odt", "dt", {}, "algo: expected one of odt, td3-odt"),
        ("odt", "odt", {"d_model": 16}, "expected d_model 16, got 8"),
    ],
)
def test_runs_that_cannot_be_gone_on_with(trained, store, source, algorithm, change, sentence):
    run = trained(source)
    with pytest.raises(ValueError, match=sentence):
        config = resolved_config(load_policy(run).info, algorithm, store.metadata)
        begin(run, algorithm, store, dataclasses.replace(config, **change))


def test_a_critic_where_none_is_trained(trained, store):
    with pytest.raises(ValueError, match="critic: odt trains none; leave it out"):
        begin(trained("odt"), "odt", store, critic=trained("td3-odt"))


def test_a_critic_of_another_shape(trained, store, small_config, tmp_path):
    wide = train(
        "td3-odt", store, config=small_config("td3-odt", critic_hidden=(9,)), out=tmp_path / "wide", updates=1
    )
    with pytest.raises(ValueError, match=r"critic: expected hidden \[8\], got \[9\]"):
        begin(trained("td3-odt"), "td3-odt", store, critic=wide)


def test_data_of_other_sizes(trained, store):
    episode = store.episode(0)
    other = type(store).from_episodes([episode._replace(actions=episode.actions.repeat(2, 1))], {})
    with pytest.raises(ValueError, match=r"data: expected the run's .* = \(4, 1\), got \(4, 2\)"):
        begin(trained("odt"), "odt", other)
