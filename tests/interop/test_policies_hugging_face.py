"""Hugging Face's DecisionTransformerModel: the same actions here, from the model in memory and its folder.

Tests against the library itself need `transformers`; beside them stand the same weights written by hand.
"""

import dataclasses
import json

import pytest
import torch
from foreign_decision_transformers import assert_same_actions, randomised, with_positions
from safetensors.torch import save_file

from dtag_fast.interop import read_policy

SIZES = {"state_dim": 3, "act_dim": 2, "hidden_size": 16, "n_layer": 2, "n_head": 2, "max_ep_len": 50}


@pytest.fixture
def hugging_face(monkeypatch):
    """hugging_face(**config) -> a DecisionTransformerModel in eval mode, all its parameters drawn."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers")

    def build(**config):
        config = transformers.DecisionTransformerConfig(**SIZES | config)
        return randomised(transformers.DecisionTransformerModel(config))

    return build


def called(model):
    """Its forward as `assert_same_actions` calls one."""

    def forward(states, actions, returns, timesteps, mask):
        return model(
            states=states,
            actions=actions,
            rewards=torch.zeros_like(returns),
            returns_to_go=returns,
            timesteps=timesteps,
            attention_mask=mask.long(),
            return_dict=True,
        ).action_preds

    return forward


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"activation_function": "gelu", "n_layer": 3, "n_head": 4},
        {"hidden_size": 128, "n_layer": 3, "n_head": 1},
        {"n_inner": 24},
        {"scale_attn_weights": False},
        {"scale_attn_by_inverse_layer_idx": True},
        {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True, "n_head": 1},
        {"reorder_and_upcast_attn": True, "attn_implementation": "eager"},
    ],
    ids=str,
)
@pytest.mark.parametrize("padding", ["left", "right"])
def test_actions_are_those_of_the_library(hugging_face, config, padding):
    theirs = hugging_face(**config)
    policy = read_policy(theirs, context_len=4)
    assert policy.algorithm == "dt" and policy.model.config.padding == "left"
    assert_same_actions(policy.model, called(theirs))
    if padding == "right":  # the same weights on windows padded at their end
        policy.model.config = dataclasses.replace(policy.model.config, padding="right")
        assert_same_actions(policy.model, called(theirs))


@pytest.mark.parametrize("safe", [True, False])
def test_folders_of_save_pretrained(hugging_face, safe, tmp_path):
    theirs = hugging_face()
    theirs.save_pretrained(tmp_path)
    if not safe:  # as the library wrote before it had safetensors
        (tmp_path / "model.safetensors").unlink()
        torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    policy = read_policy(tmp_path, context_len=4, state_mean=[1, 2, 3], state_std=2)
    assert_same_actions(policy.model, called(theirs))
    assert policy.model.config.dropout == 0.1
    assert policy.model.normalizer.mean.tolist() == [1, 2, 3]


def folder(path, tensors, config):
    save_file(tensors, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(config))
    return path


def test_without_the_library_installed(tmp_path):
    theirs, tensors, config = with_positions()
    policy = read_policy(folder(tmp_path, tensors, config), context_len=4)
    assert_same_actions(policy.model, theirs)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"activation_function": "gelu_new"},
            "activation_function: expected one of relu, gelu, .* got 'gelu_new'",
        ),
        ({"activation_function": ["relu"]}, "activation_function: expected one of"),
        ({"action_tanh": False}, "action_tanh: the network's actions are not bounded"),
        ({"add_cross_attention": True}, "attends to a second sequence"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon: expected 1e-05, which ours have, got 1e-06"),
        ({"n_head": "2"}, "n_head: expected a whole number, got '2'"),
        ({"n_head": 3}, "n_head: expected a divisor of d_model = 16, got 3"),
        ({"n_layer": 3}, "n_layer: config.json has 3, the weights 2 blocks"),
        ({"hidden_size": 32}, "hidden_size: config.json has 32, the weights 16"),
        ({"resid_pdrop": 1.5}, r"dropout: expected a probability in \[0, 1\), got 1.5"),
        ({"model_type": "gpt2"}, "model_type: expected decision_transformer, got 'gpt2'"),
    ],
)
def test_configs_that_ours_can_not_be_are_refused(changes, sentence, tmp_path):
    _, tensors, config = with_positions()
    with pytest.raises(ValueError, match=sentence):
        read_policy(folder(tmp_path, tensors, config | changes))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.pop("encoder.wpe.weight"), "encoder.wpe.weight: expected among the weights"),
        (
            lambda t: t.update({"encoder.wpe.weight": torch.ones(0, 16)}),
            "expected rows as wide as embed_ln.bias",
        ),
        (
            lambda t: t.update({"encoder.wpe.weight": torch.ones(8, 4)}),
            "expected rows as wide as embed_ln.bias",
        ),
        (lambda t: t.pop("embed_ln.bias"), "expected rows as wide as embed_ln.bias"),
        (
            lambda t: t.update({"encoder.h.0.adapter.weight": torch.ones(1)}),
            "adapter.weight: expected the tensors",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(change, sentence, tmp_path):
    _, tensors, config = with_positions()
    change(tensors)
    with pytest.raises(ValueError, match=sentence):
        read_policy(folder(tmp_path, tensors, config))


def test_weights_without_their_config_are_refused(tmp_path):
    _, tensors, _ = with_positions()
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"without its config.json, which tells heads and activation"):
        read_policy(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(ValueError, match="expected a JSON object, got list"):
        read_policy(tmp_path)
