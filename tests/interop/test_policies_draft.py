"""Key maps drafted from names and shapes: weights under names of other codes come in as they should."""

import json

import pytest
import torch
from foreign_decision_transformers import (
    CorlDecisionTransformer,
    KzlDecisionTransformer,
    MinDecisionTransformer,
    randomised,
)

from dtag_fast.interop import draft_keys, read_policy
from dtag_fast.interop.policies.assembly import MODELS

# Our names -> names as those of other codes are made; weights of GPT-2's blocks are transposed.
SEPARATE = {
    "attention.q": "attention.q_net",
    "attention.k": "attention.k_net",
    "attention.v": "attention.v_net",
    "attention.out": "attention.proj_net",
    "expand": "mlp.0",
    "contract": "mlp.2",
    "norm_1": "ln1",
    "norm_2": "ln2",
}
GPT2 = {
    "attention.qkv": "attn.c_attn",
    "attention.out": "attn.c_proj",
    "expand": "mlp.c_fc",
    "contract": "mlp.c_proj",
    "norm_1": "ln_1",
    "norm_2": "ln_2",
}


def ours(algorithm: str, **sizes):
    network, config = MODELS[algorithm]
    sizes = {"state_dim": 3, "action_dim": 2, "d_model": 16, "n_layer": 2, "n_head": 4} | sizes
    return randomised(network(config(**sizes)))


def weights_of(model) -> dict[str, torch.Tensor]:
    return {n: t for n, t in model.state_dict().items() if not n.startswith(("normalizer", "action_bounds"))}


def renamed(model, blocks: str, inside: dict[str, str], edges: dict[str, str], packed: bool):
    """The weights of a model under other names; packed ones transposed."""
    found = {}
    for name, tensor in weights_of(model).items():
        if not name.startswith("transformer.blocks."):
            theirs = next((name.replace(o, t) for o, t in edges.items() if name.startswith(o)), name)
            found[theirs] = tensor
            continue
        n, rest = name.removeprefix("transformer.blocks.").split(".", 1)
        stem, kind = rest.rsplit(".", 1)
        if stem == "attention.qkv" and not packed:
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                found[f"{blocks}.{n}.{inside[f'attention.{part}']}.{kind}"] = piece
            continue
        turned = packed and tensor.ndim == 2
        found[f"{blocks}.{n}.{inside[stem]}.{kind}"] = tensor.t() if turned else tensor
    return found


def read_with_draft(source, tmp_path, **more):
    draft = draft_keys(source)
    assert not draft.open
    (tmp_path / "keys.json").write_text(json.dumps(draft.described))
    return draft, read_policy(source, keys=tmp_path / "keys.json", **more)


def assert_same(policy, model):
    expected, found = weights_of(model), weights_of(policy.model)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("layers", [1, 2])
def test_a_reinformer_with_separate_projections(layers, tmp_path):
    model = ours("reinformer", n_layer=layers, context_len=5, max_timestep=50)
    edges = {"embed_return": "embed_rtg", "return_head": "predict_rtg", "action_head": "predict_action.mean"}
    tensors = renamed(model, "transformer", SEPARATE, edges | {"action_log_std": "log_std"}, packed=False)
    tensors |= {"predict_state.weight": torch.ones(3, 16), "predict_state.bias": torch.ones(3)}
    mask = torch.ones(1, 1, 15, 15).tril()
    tensors |= {f"transformer.{n}.attention.mask": mask for n in range(layers)}
    draft, policy = read_with_draft(tensors, tmp_path, n_head=4)
    assert draft.described["algorithm"] == policy.algorithm == "reinformer" and draft.guessed == []
    assert draft.described["settings"] == {"context_len": 5}
    assert any("predict_state.weight" in note for note in policy.notes)
    assert_same(policy, model)


@pytest.mark.parametrize("wrapped", ["", "module."])
def test_an_online_decision_transformer_on_transposed_blocks(wrapped, tmp_path):
    model = ours("odt")
    edges = {"action_head": "predict_action.mu", "log_std_head": "predict_action.log_std"}
    edges |= {"transformer.final_norm": "transformer.ln_f", "embed_norm": "embed_ln"}
    tensors = renamed(model, "transformer.h", GPT2, edges, packed=True)
    tensors |= {"embed_timestep.weight": torch.ones(50, 16), "predict_return.weight": torch.ones(1, 16)}
    tensors |= {"predict_return.bias": torch.ones(1), "transformer.h.0.attn.masked_bias": torch.tensor(-1e4)}
    tensors["transformer.h.0.attn.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.uint8)
    tensors = {wrapped + name: tensor for name, tensor in tensors.items()}
    draft, policy = read_with_draft(tensors, tmp_path, n_head=4)
    assert policy.algorithm == "odt" and not policy.model.config.timestep_embedding
    assert draft.guessed == ["transformer.h.{n}.attn.c_proj."]  # square: no shape tells
    assert_same(policy, model)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (KzlDecisionTransformer, {"activation": "relu"}),
        (MinDecisionTransformer, {"activation": "gelu"}),
        (CorlDecisionTransformer, {"activation": "gelu"}),
    ],
)
def test_known_layouts_are_drafted_as_they_are_read(kind, settings, tmp_path):
    module = randomised(kind())
    expected = read_policy(module)
    _, policy = read_with_draft(module.state_dict(), tmp_path, **settings)
    assert policy.algorithm == "dt" and policy.model.config.norm == expected.model.config.norm
    assert_same(policy, expected.model)


def test_what_neither_names_nor_shapes_tell_is_left_open(tmp_path):
    model = ours("dt", norm="post", state_dim=16)  # as wide as the network: embedding or head?
    inside = SEPARATE | {"attention.k": "attention.b", "norm_1": "before", "norm_2": "behind"}
    tensors = renamed(model, "net.layers", inside, {"embed_return": "first"}, packed=False)
    draft = draft_keys(tensors)
    assert sorted(draft.open) == [
        "embed_state.{p}",
        "first.{p}",
        "net.layers.{n}.attention.b.{p}",
        "net.layers.{n}.before.{p}",
        "net.layers.{n}.behind.{p}",
    ]
    (tmp_path / "keys.json").write_text(json.dumps(draft.described))
    with pytest.raises(ValueError, match=r"the draft leaves open what it is \(\?\); write our name or null"):
        read_policy(tensors, keys=tmp_path / "keys.json")
    open_ = {"embed_state.{p}": "embed_state.{p}", "first.{p}": "embed_return.{p}"}
    for theirs, name in (("attention.b", "attention.k"), ("before", "norm_1"), ("behind", "norm_2")):
        open_[f"net.layers.{{n}}.{theirs}.{{p}}"] = f"transformer.blocks.{{n}}.{name}.{{p}}"
    draft.described["keys"].update(open_)
    (tmp_path / "keys.json").write_text(json.dumps(draft.described))
    assert_same(read_policy(tensors, keys=tmp_path / "keys.json", n_head=4), model)


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({"weight": torch.ones(2, 2)}, "expected a transformer's blocks, names with a number, found none"),
        ({"h.0.weight": torch.ones(2, 2)}, r"expected a LayerNorm in the blocks h\.\*, found none"),
        ({"h.0.weight": torch.ones(1).expand(10**9)}, "expected a plain array of all its numbers"),
    ],
)
def test_what_is_no_transformer_is_refused(tensors, sentence):
    with pytest.raises(ValueError, match=sentence):
        draft_keys(tensors)
