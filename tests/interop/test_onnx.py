"""ONNX files: what a runtime makes of them is what the package does."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from exported_policies import ACTIVATIONS, CONTINUOUS, KINDS, A, K, S, make_critic, make_policy, program

from dtag_fast import SGD, Adam, ClipNorm, Radius, RMSprop
from dtag_fast.interop.export.acting import Acting
from dtag_fast.interop.export.onnx_file import export_onnx
from dtag_fast.interop.export.verification import expected_outputs, random_inputs
from dtag_fast.models import DecisionTransformer, DecisionTransformerConfig
from dtag_fast.rollout import evaluate
from dtag_fast.rollout.policy import SequencePolicy
from dtag_fast.rollout.settings import AGSetting

OPTIONS = {
    "last": {"select": "last"},
    "momentum": {"optimizer": SGD(0.9, nesterov=True), "lr": 0.02},
    "adam": {"optimizer": Adam(), "lr": 0.05},
    "rmsprop": {"optimizer": RMSprop(), "lr": 0.02},
    "unit": {"gradient": "unit"},
    "clip": {"gradient": ClipNorm(0.3), "reduce": "mean"},
    "radius": {"radius": 0.05},
    "l2 radius": {"radius": Radius(0.05, "l2"), "reduce": 1},
}


@pytest.fixture
def run():
    """run(file, inputs) -> outputs by name, by onnxruntime."""
    onnxruntime = pytest.importorskip("onnxruntime")

    def call(path, inputs):
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [one.name for one in session.get_outputs()]
        return dict(zip(names, session.run(None, inputs), strict=True))

    return call


@pytest.mark.parametrize("kind", KINDS)
def test_policies_in_batches_of_any_size(kind, run, tmp_path):
    pytest.importorskip("onnx")
    policy = make_policy(kind)
    report = export_onnx(policy, tmp_path / "policy.onnx")
    assert report.verification.runtime.startswith("onnxruntime")
    assert report.verification.largest_difference < 1e-4 and report.verification.rows_apart == 0
    acting = Acting(policy)
    for batch in (1, 2, 17):
        inputs = random_inputs(acting, batch, seed=batch)
        found = run(report.path, inputs)
        assert tuple(found) == report.outputs
        for ours, theirs in zip(found.values(), expected_outputs(acting, inputs), strict=True):
            assert ours.shape == theirs.shape and abs(ours - theirs).max() < 1e-4


@pytest.mark.parametrize("kind", CONTINUOUS)
def test_action_gradient_is_in_the_graph(kind, run, tmp_path):
    pytest.importorskip("onnx")
    policy, critic, setting = make_policy(kind), make_critic(), AGSetting(10, 0.03)
    report = export_onnx(policy, tmp_path / "refined.onnx", critic=critic, setting=setting)
    assert report.verification.rows_apart <= 1
    inputs = random_inputs(Acting(policy), 24, seed=5)
    found = run(report.path, inputs)["action"]
    plain, refined = (expected_outputs(Acting(policy, critic, s), inputs)[0] for s in (AGSetting(), setting))
    apart = abs(found - refined).max(axis=1) > 1e-4
    assert apart.sum() <= 1 and abs(found - plain).max() > 0.03


@pytest.mark.parametrize("norm", [False, True], ids=["plain", "LayerNorm"])
@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_every_activation_of_a_critic(kind, norm, tmp_path):
    pytest.importorskip("onnx")
    policy, critic = make_policy("bc"), program(kind, norm)
    report = export_onnx(policy, tmp_path / "f.onnx", critic=critic, setting=AGSetting(5, 0.03))
    assert report.verification.rows_apart <= 1 and report.verification.largest_difference < 1e-4


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option(name, tmp_path):
    pytest.importorskip("onnx")
    setting = AGSetting(**({"steps": 6, "lr": 0.05} | OPTIONS[name]))
    report = export_onnx(make_policy("dt"), tmp_path / "f.onnx", critic=program("silu"), setting=setting)
    assert report.verification.largest_difference < 1e-4


def test_a_loop_around_the_file_is_the_policy_in_a_rollout(run, tmp_path):
    """Windows as docs/interop/export.md tells to keep them, against SequencePolicy, over two windows."""
    pytest.importorskip("onnx")
    for kind in ("dt", "reinformer"):
        policy = make_policy(kind)
        path = export_onnx(policy, tmp_path / f"{kind}.onnx").path
        rng = np.random.default_rng(0)
        target = 80.0 if kind == "dt" else None
        ours = SequencePolicy(policy.model, 1, target)
        states, actions, returns = (np.zeros((1, K, n), np.float32) for n in (S, A, 1))
        wanted, active = 80.0, np.ones(1, bool)
        for t in range(2 * K):
            state, reward = rng.standard_normal((1, S)), rng.standard_normal(1)
            states, actions, returns = (np.roll(x, -1, axis=1) for x in (states, actions, returns))
            states[:, -1], actions[:, -1], returns[:, -1] = state, 0, wanted
            timesteps = np.maximum(np.arange(t - K + 1, t + 1), 0)[None]
            mask = np.arange(K)[None] >= K - 1 - t
            found = run(
                path,
                {
                    "states": states,
                    "actions": actions,
                    "returns_to_go": returns,
                    "timesteps": timesteps,
                    "mask": mask,
                },
            )
            expected = ours.act(state, active)
            assert abs(found["action"] - expected).max() < 1e-4
            ours.record(expected, reward, active)
            actions[:, -1] = expected
            wanted -= reward[0]
            if kind == "reinformer":
                returns[:, -1] = found["predicted_return"]


def test_the_page_s_program_plays_the_episode_without_the_package(tmp_path, monkeypatch):
    for name in ("onnx", "onnxruntime"):
        pytest.importorskip(name)
    monkeypatch.chdir(tmp_path)
    sizes = {"state_dim": 3, "action_dim": 1, "context_len": K, "d_model": 16, "n_layer": 1, "n_head": 2}
    config = DecisionTransformerConfig(**sizes, return_scale=100.0)
    bounds = {"action_low": [-2.0], "action_high": [2.0]}
    about = {"env_id": "Pendulum-v1", "action_dim": 1, "return_scale": 100.0, "target_returns": [-300.0]}
    policy = make_policy("dt", **about, **bounds)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        policy = policy._replace(model=DecisionTransformer(config, **bounds).eval())
    export_onnx(policy, "policy.onnx")
    page = Path(__file__).parents[2] / "docs" / "interop" / "export.md"
    (source,) = re.findall(r"```python\n(import json\n.*?)```", page.read_text(), re.DOTALL)
    Path("page.py").write_text(f"import sys\n\nsys.modules['dtag_fast'] = None\n{source}")
    done = subprocess.run([sys.executable, "page.py"], capture_output=True, text=True, check=True)
    expected = evaluate(policy, episodes=1, seed=0).settings[0].returns
    assert float(done.stdout.split()[-1]) == pytest.approx(expected[0], rel=1e-3)


def test_the_file_says_what_it_is(tmp_path):
    onnx = pytest.importorskip("onnx")
    policy, critic = make_policy("dt"), make_critic()
    report = export_onnx(
        policy, tmp_path / "new" / "f.onnx", critic=critic, setting=AGSetting(3, 0.1, "adam")
    )
    model = onnx.load(report.path)
    about = {p.key: json.loads(p.value) for p in model.metadata_props}
    assert about["env_id"] == "Hopper-v5" and about["context_len"] == K and about["return_scale"] == 10.0
    assert about["state_mean"] == policy.info.state_mean and about["action_high"] == [1.0, 0.5]
    assert about["action_gradient"]["steps"] == 3 and about["versions"]["dtag_fast"]
    assert report.inputs["states"] == ("batch", K, S) and report.nodes == len(model.graph.node)
    assert {node.op_type for node in model.graph.node}.isdisjoint({"Loop", "Scan", "If"})
    assert {i.domain for i in model.opset_import} == {""} and model.opset_import[0].version == 18


def test_weights_are_there_once(tmp_path):
    onnx = pytest.importorskip("onnx")
    policy = make_policy("bc")
    sizes = []
    for steps in (1, 20):
        setting = AGSetting(steps, 0.01)
        path = export_onnx(policy, tmp_path / "f.onnx", critic=program(), setting=setting).path
        held = onnx.load(path).graph.initializer
        sizes.append(sum(onnx.numpy_helper.to_array(x).size for x in held))
    assert sizes[1] < 1.1 * sizes[0]


def test_without_onnxruntime_the_evaluator_of_onnx_compares(tmp_path, monkeypatch):
    pytest.importorskip("onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for kind in ("reinformer", "dt-discrete", "iql"):
        report = export_onnx(make_policy(kind), tmp_path / "f.onnx")
        assert "onnxruntime is not installed" in str(report.verification)
        assert report.verification.largest_difference < 1e-4
    refined = export_onnx(make_policy("bc"), tmp_path / "g.onnx", critic=program(), setting=AGSetting(2))
    assert refined.verification.largest_difference < 1e-4


def test_no_file_is_left_where_the_comparison_fails(tmp_path, monkeypatch):
    pytest.importorskip("onnx")
    from dtag_fast.interop.export import onnx_file

    policy = make_policy("dt")
    broken = lambda *_: (lambda inputs: [np.zeros((len(inputs["mask"]), A))], "a runtime")  # noqa: E731
    monkeypatch.setattr(onnx_file, "_runtime", broken)
    with pytest.raises(ValueError, match="differ from this package"):
        export_onnx(policy, tmp_path / "f.onnx")
    assert list(tmp_path.iterdir()) == []
    assert export_onnx(policy, tmp_path / "f.onnx", check=False).verification is None


def test_without_onnx_one_sentence_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"dtag_fast\[export\]"):
        export_onnx(make_policy("dt"), tmp_path / "f.onnx")
