"""Decision Transformers of kzl, min-decision-transformer and CORL: the same actions here, from their tensors.

No other library is needed: the sources are small modules with the same layouts.
"""

import json
import re
import zipfile

import d3rlpy_files
import numpy as np
import pytest
import torch
from foreign_decision_transformers import (
    CorlDecisionTransformer,
    KzlDecisionTransformer,
    MinDecisionTransformer,
    assert_same_actions,
    randomised,
)
from safetensors.torch import save_file

from dtag_fast.interop import read_policy

SOURCES = {
    "kzl": (KzlDecisionTransformer, "pre", "relu", "left"),
    "min": (MinDecisionTransformer, "post", "gelu", "right"),
    "corl": (CorlDecisionTransformer, "pre", "gelu", "right"),
}
MASK = "transformer.0.attention.mask"
TOLD = {"context_len": 4}  # kzl's tensors do not tell K


def made(name: str, **sizes):
    return randomised(SOURCES[name][0](**sizes))


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("sizes", [{}, {"heads": 4, "layers": 3}, {"state_dim": 11, "act_dim": 5, "d": 24}])
def test_actions_of_a_module_in_memory_are_the_sources(name, sizes):
    theirs = made(name, **sizes)
    policy = read_policy(theirs)
    config = policy.model.config
    assert policy.algorithm == "dt"
    assert (config.norm, config.activation, config.padding) == SOURCES[name][1:]
    assert (config.n_head, config.context_len, config.max_timestep) == (sizes.get("heads", 1), 4, 50)
    given = {"state_dim": 3, "act_dim": 2} | {k: v for k, v in sizes.items() if k.endswith("_dim")}
    assert_same_actions(policy.model, theirs, **given)


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("kind", ["state dict", "torch file", "safetensors", "nested", "parallel", "half"])
def test_actions_from_tensors_and_files(name, kind, tmp_path):
    theirs = made(name, heads=2)
    if kind == "half":  # numbers that half precision has exactly, so that none is rounded here
        theirs = theirs.half().float()
    tensors = theirs.state_dict()
    source = tmp_path / "policy.pt"
    if kind == "state dict":
        source = tensors
    elif kind == "safetensors":
        source = tmp_path / "policy.safetensors"
        save_file({k: v.contiguous() for k, v in tensors.items()}, source)
    elif kind == "nested":
        torch.save({"step": 3, "optimizer": {"state": {0: torch.ones(2)}}, "model": tensors}, source)
    elif kind == "parallel":
        torch.save({f"module.{k}": v for k, v in tensors.items()}, source)
    elif kind == "half":
        halved = {k: v.half() if v.is_floating_point() and v.ndim else v for k, v in tensors.items()}
        torch.save(halved, source)
    else:
        torch.save(tensors, source)
    policy = read_policy(source, n_head=2, **(TOLD if name == "kzl" else {}))
    assert_same_actions(policy.model, theirs)


def test_what_tensors_do_not_tell_is_taken_from_the_published_code_and_noted():
    policy = read_policy(made("kzl").state_dict())
    assert (policy.model.config.n_head, policy.model.config.context_len) == (1, 20)
    assert [note.split(" ")[0] for note in policy.notes[:3]] == ["n_head", "activation", "context_len"]
    assert "predict_state, predict_return" in policy.notes[3] and len(policy.notes) == 4


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.filterwarnings("error:.*not writable")
def test_corls_largest_action_and_statistics_come_along(tmp_path, order):
    theirs = made("corl", max_action=2.5)
    mean, std = np.array([[1.0, -2, 3]], np.float32), np.array([[0.5, 2, 4]], np.float32)
    statistics = {"state_mean": mean.astype(f"{order}f4"), "state_std": std.astype(f"{order}f4")}
    torch.save({"model_state": theirs.state_dict(), **statistics}, tmp_path / "dt_checkpoint.pt")
    policy = read_policy(tmp_path, max_action=2.5)
    assert_same_actions(policy.model, theirs)
    states = torch.randn(4, 3)
    expected = (states - torch.from_numpy(mean)) / torch.from_numpy(std)
    torch.testing.assert_close(policy.model.normalize_states(states), expected)
    assert policy.scales_states and policy.model.action_bounds.half_range.tolist() == [2.5, 2.5]
    replaced = read_policy(tmp_path, state_mean=0, state_std=2.0).model.normalizer
    assert (replaced.mean.tolist(), replaced.std.tolist()) == ([0, 0, 0], [2, 2, 2])


def test_statistics_that_numpy_1_wrote(tmp_path):
    """Its arrays name another module; CORL's published checkpoints are of that time."""
    content = {
        "model_state": made("corl").state_dict(),
        "state_mean": np.full((1, 3), 2.0),
        "state_std": np.ones(3),
    }
    torch.save(content, tmp_path / "new.pt")
    with zipfile.ZipFile(tmp_path / "new.pt") as new, zipfile.ZipFile(tmp_path / "old.pt", "w") as old:
        for entry in new.namelist():
            held = new.read(entry)
            if entry.endswith("data.pkl"):
                assert b"numpy._core.multiarray" in held
                held = held.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            old.writestr(entry, held)
    assert read_policy(tmp_path / "old.pt").model.normalizer.mean.tolist() == [2, 2, 2]


@pytest.mark.parametrize("inner", [8, 40])
def test_a_narrower_hidden_layer_is_filled_up_with_units_that_add_nothing(inner):
    theirs = made("kzl", inner=inner)
    assert_same_actions(read_policy(theirs).model, theirs)


def test_return_scale_is_the_models():
    policy = read_policy(made("min"), return_scale=1000)
    assert policy.model.config.return_scale == 1000.0


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda t: t | {"transformer.wpe.weight": torch.ones(9, 16)},
            "transformer.wpe.weight: expected the tensors",
        ),
        (lambda t: t | {"transformer.h.0.crossattention.bias": torch.ones(1)}, "expected the tensors of kzl"),
        (lambda t: without(t, "embed_return.weight"), "missing key 'embed_return.weight'"),
        (lambda t: without(t, "embed_state.weight"), "embed_state.weight: expected among the weights"),
        (lambda t: without(t, "transformer.h.0."), r"without a gap, got \[1\]"),
        (lambda t: t | {"embed_action.bias": torch.ones(5)}, "embed_action.bias: expected shape"),
        (lambda t: t | {"embed_state.weight": torch.ones(99999, 3)}, "qkv.weight: expected shape .299997"),
        (lambda t: t | {"embed_state.weight": torch.ones(0, 3)}, "dimensions that are not empty"),
        (lambda t: t | {"embed_ln.bias": torch.full((16,), torch.nan)}, "embed_ln.bias: expected finite"),
        (lambda t: t | {"embed_ln.bias": torch.ones(16, dtype=torch.int64)}, "expected floating point"),
        (lambda t: t | {"transformer.h.00001.ln_1.bias": torch.ones(16)}, "expected the tensors"),
        (lambda t: t | {"transformer.h.01.ln_1.bias": torch.ones(16)}, "a second tensor for"),
        (lambda t: t | {"transformer.h.0.attn.c_proj.weight": torch.ones(16)}, "a matrix to transpose"),
    ],
)
def test_weights_of_another_network_are_refused_by_name(change, sentence):
    tensors = dict(made("kzl").state_dict())
    with pytest.raises(ValueError, match=sentence):
        read_policy(change(tensors))


def without(tensors, prefix):
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(prefix)}


def test_a_wider_hidden_layer_is_refused():
    with pytest.raises(
        ValueError, match=r"a hidden layer of 80 units .n_inner., those here have 4 x 16 = 64"
    ):
        read_policy(made("kzl", inner=80))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"context_len": 5}, "context_len: the source has 4, got 5; leave it out"),
        ({"n_head": 2}, "n_head: the source has 1, got 2"),
        ({"max_action": 2.0}, "min-decision-transformer has actions in .-1, 1."),
        ({"activation": "relu"}, "min-decision-transformer has gelu, got 'relu'"),
        ({"state_mean": [0, 0, 0]}, "state_mean, state_std: expected both or none"),
        ({"state_mean": [0, 0], "state_std": 1}, "state_mean: expected 3 finite numbers or one, got 2"),
        ({"state_mean": "zero", "state_std": 1}, "state_mean: expected 3 numbers or one, got str"),
        ({"state_mean": 0, "state_std": 0}, "std: expected positive numbers"),
        ({"return_scale": 0}, "return_scale: expected a positive number"),
    ],
)
def test_what_the_caller_says_must_fit_the_source(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        read_policy(made("min"), **options)


@pytest.mark.parametrize("heads", [0, 3, 100])
def test_heads_must_divide_the_width(heads):
    with pytest.raises(ValueError, match=r"n_head: expected a (positive integer|divisor)"):
        read_policy(made("kzl").state_dict(), n_head=heads)


def test_a_file_that_would_run_something_is_refused_before_it_does(tmp_path):
    class Runs:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"model": Runs()}, tmp_path / "policy.pt")
    with pytest.raises(ValueError, match="refused before anything of it ran"):
        read_policy(tmp_path / "policy.pt")
    torch.save(made("min"), tmp_path / "policy.pt")  # the module itself, whose class would be imported
    with pytest.raises(ValueError, match="save state dicts"):
        read_policy(tmp_path / "policy.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "tensor", "sentence"),
    [
        ("embed_timestep.weight", torch.zeros(1, 1).expand(1 << 40, 16), "expected a plain array"),
        ("embed_ln.bias", torch.zeros(16, device="meta"), "expected a plain array"),
        ("embed_ln.bias", torch.ones(16).to_sparse(), "expected a plain array"),
        (MASK, torch.zeros(1, 1, 1, 1).expand(1, 1, 3 << 24, 3 << 24), "expected a plain array"),
        (MASK, torch.zeros(1, 1, 4, 4), "expected a square mask over three tokens a step"),
        (MASK, torch.zeros(()), "expected a square mask over three tokens a step"),
    ],
)
def test_sizes_that_are_only_claimed_cost_nothing(name, tensor, sentence, tmp_path):
    tensors = made("min").state_dict() | {name: tensor}
    with pytest.raises(ValueError, match=f"{re.escape(name)}: {sentence}"):
        read_policy(tensors)
    torch.save(tensors, tmp_path / "policy.pt")
    with pytest.raises(ValueError, match=f"refused[^;]*tensor|{re.escape(name)}: {sentence}"):
        read_policy(tmp_path / "policy.pt")


@pytest.mark.parametrize(
    "mean", [torch.zeros(1).expand(1 << 40), torch.zeros(3, device="meta"), {"a": 1}, "one"]
)
def test_statistics_that_a_file_only_claims_cost_nothing(mean, tmp_path):
    content = {"model_state": made("corl").state_dict(), "state_mean": mean, "state_std": np.ones(3)}
    torch.save(content, tmp_path / "policy.pt")
    with pytest.raises(ValueError, match=r"state_mean: expected 3|refused[^;]*tensor"):
        read_policy(tmp_path / "policy.pt")


@pytest.mark.parametrize("name", ["policy.pt", "policy.safetensors"])
def test_mutated_files_are_read_or_refused_in_a_sentence(name, tmp_path):
    path, tensors = tmp_path / name, made("corl").state_dict()
    if path.suffix == ".pt":
        torch.save({"model": tensors, "state_mean": np.zeros(3), "state_std": np.ones(3)}, path)
    else:
        save_file(tensors, path)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for number in range(150):
        broken = bytearray(whole)
        for place in rng.integers(0, len(broken), rng.integers(1, 20)):
            broken[place] = rng.integers(256)
        path.write_bytes(broken[: rng.integers(len(broken))] if number % 3 == 0 else broken)
        try:
            read_policy(path)
        except ValueError as error:
            assert str(path) in str(error)


@pytest.mark.parametrize(
    ("source", "error", "sentence"),
    [
        ("nowhere/policy.pt", FileNotFoundError, "there is none; nothing is downloaded"),
        (7, TypeError, "expected a path, a module or a state dict, got int"),
        ({}, ValueError, "it holds no tensors"),
        ({"a": torch.ones(2)}, ValueError, "not a policy that is known here; those of .* Its tensors: a"),
    ],
)
def test_other_things_are_refused(source, error, sentence):
    with pytest.raises(error, match=sentence):
        read_policy(source)


def test_files_of_critics_are_said_to_be_that(tmp_path):
    d3rlpy_files.write_d3(tmp_path / "model.d3")
    with zipfile.ZipFile(tmp_path / "sac.zip", "w") as archive:  # as Stable-Baselines3's
        for name in ("data", "policy.pth"):
            archive.writestr(name, b"")
    linear = torch.nn.Linear(5, 1)
    q = {f"fc{i}.{kind}": x for i in (1, 2, 3) for kind, x in linear.state_dict().items()}
    actor = {f"{layer}.weight": torch.zeros(2, 3) for layer in ("fc1", "fc_mu")}
    torch.save((actor, q), tmp_path / "td3.cleanrl_model")
    for name in ("model.d3", "sac.zip", "td3.cleanrl_model"):
        with pytest.raises(ValueError, match=f"{name}: a file of .* `dtag convert-critic`"):
            read_policy(tmp_path / name)


def test_folders_that_hold_no_policy_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected model.safetensors or pytorch_model.bin"):
        read_policy(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ValueError, match="a run folder of dtag_fast already"):
        read_policy(tmp_path)


# -- key maps of one's own ---------------------------------------------------------------------------


def key_map(tmp_path, **changes):
    path = tmp_path / "keys.json"
    path.write_text(json.dumps(changes))
    return path


def ours(algorithm: str, **sizes):
    from dtag_fast.interop.policies.assembly import MODELS

    network, config = MODELS[algorithm]
    more = {"max_timestep": 50} if algorithm == "reinformer" else {"max_timestep": 4096}
    return randomised(
        network(config(state_dim=3, action_dim=2, d_model=16, n_layer=2, n_head=4, **more, **sizes))
    )


def shuffled_names(model):
    """A state dict of the model under other names: separate, transposed projections, and a head more."""
    found = {"net.future.weight": torch.ones(3, 16)}
    for name, tensor in model.state_dict().items():
        if name.startswith(("normalizer", "action_bounds")):
            continue
        if ".qkv." in name:
            stem, kind = name.removeprefix("transformer.blocks.").split(".attention.qkv.")
            for part, piece in zip("abc", tensor.chunk(3), strict=True):
                found[f"net.layer{stem}.{part}.{kind}"] = piece.t() if piece.ndim == 2 else piece
        elif name.startswith("transformer.blocks."):
            found[name.replace("transformer.blocks.", "net.layer")] = tensor
        else:
            found[f"net.{name}"] = tensor
    return found


PARTS = {
    f"net.layer{{n}}.{part}.{kind}": f"transformer.blocks.{{n}}.attention.{ours}.{kind}{transposed}"
    for part, ours in zip("abc", "qkv", strict=True)
    for kind, transposed in (("weight", ".T"), ("bias", ""))
}
BLOCKS = {
    f"net.layer{{n}}.{name}.{{p}}": f"transformer.blocks.{{n}}.{name}.{{p}}"
    for name in ("attention.out", "norm_1", "norm_2", "expand", "contract")
}
EDGES = {
    f"net.{name}": name
    for name in (
        *("embed_state.{p}", "embed_action.{p}", "embed_return.{p}", "embed_norm.{p}", "action_head.{p}"),
        *("embed_timestep.weight", "return_head.{p}", "action_log_std", "log_std_head.{p}"),
        "transformer.final_norm.{p}",
    )
}
KEYS = PARTS | BLOCKS | EDGES | {"net.future.*": None}


@pytest.mark.parametrize("algorithm", ["dt", "reinformer", "odt"])
def test_a_key_map_takes_weights_under_any_names(algorithm, tmp_path):
    model = ours(algorithm, context_len=6)
    tensors = {"best": 3.5, "actor": shuffled_names(model), "ema": {"net.embed_norm.weight": torch.ones(16)}}
    torch.save(tensors, tmp_path / "policy.pt")
    settings = {"n_head": 4, "context_len": 6, "dropout": 0.0}
    keys = key_map(tmp_path, algorithm=algorithm, settings=settings, keys=KEYS)
    policy = read_policy(tmp_path / "policy.pt", keys=keys)
    assert policy.algorithm == algorithm and policy.model.config.dropout == 0.0
    assert any("net.future.weight" in note for note in policy.notes)
    expected, found = model.state_dict(), policy.model.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert policy.model.config.timestep_embedding == (algorithm != "odt")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"algorithm": "iql"}, "algorithm: expected one of dt, reinformer, odt, got 'iql'"),
        ({"keys": []}, "keys: expected a dict"),
        ({"more": 1}, "expected a JSON object with algorithm, keys"),
        ({"settings": {"d_model": 4}}, "settings: expected some of .*, got 'd_model'"),
        ({"settings": {"norm": "none"}}, "norm: expected one of post, pre, got 'none'"),
        ({"keys": KEYS | {"net.future.*": "embed_state.bias"}}, r"\* stands in rules that drop"),
        ({"keys": {"net.{n}.{n}": None}}, "{n} may stand in it once"),
        ({"keys": {"net.a": "blocks.{n}.a"}}, "has {n}, which it does not have"),
        ({"keys": {"net.a": 3}}, "expected our name or null, got 3"),
        (
            {"keys": {k: v for k, v in KEYS.items() if ".c." not in k}},
            "net.layer0.c.weight.* and 0|net.layer0.c",
        ),
        ({"keys": KEYS | {"net.layer{n}.c.weight": None}}, "attention.v.weight: expected beside"),
    ],
)
def test_key_maps_that_do_not_fit_are_refused(changes, sentence, tmp_path):
    described = {"algorithm": "dt", "settings": {"n_head": 4}, "keys": KEYS} | changes
    with pytest.raises(ValueError, match=sentence):
        read_policy(shuffled_names(ours("dt")), keys=key_map(tmp_path, **described))
