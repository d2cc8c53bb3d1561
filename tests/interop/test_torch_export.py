"""torch.export: of policies with the loop written out, and of `refine` as a registered operator."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from exported_policies import A, S, make_critic, make_policy
from torch import nn

from dtag_fast import Refiner, refine
from dtag_fast.interop.export.acting import Acting
from dtag_fast.interop.export.torch_program import export_program
from dtag_fast.interop.export.verification import expected_outputs, random_inputs, verify
from dtag_fast.rollout.settings import AGSetting


def runner(program):
    module = program.module()
    return lambda inputs: [x.numpy() for x in module(*map(torch.from_numpy, inputs.values()))]


@pytest.mark.parametrize("kind", ["dt-original", "dt-discrete", "reinformer", "adt", "iql"])
def test_policies_saved_and_loaded_act_as_before(kind, tmp_path):
    policy, path = make_policy(kind), tmp_path / "policy.pt2"
    program = export_program(policy, path)
    loaded = torch.export.load(path)
    acting = Acting(policy)
    assert verify(acting, runner(loaded), "torch.export", tolerance=1e-5).rows_apart == 0
    for batch in (1, 2, 33):
        inputs = random_inputs(acting, batch, seed=batch)
        for ours, theirs in zip(runner(loaded)(inputs), runner(program)(inputs), strict=True):
            assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("kind", ["reinformer", "bc"])
def test_action_gradient_is_in_the_program(kind, tmp_path):
    policy, critic, setting = make_policy(kind), make_critic(), AGSetting(3, 0.1)
    export_program(policy, tmp_path / "p.pt2", critic=critic, setting=setting)
    about = {"dtag_fast.json": ""}
    loaded = torch.export.load(tmp_path / "p.pt2", extra_files=about)
    assert json.loads(about["dtag_fast.json"])["action_gradient"]["steps"] == 3
    assert verify(Acting(policy, critic, setting), runner(loaded), "torch.export").rows_apart <= 1
    operators = {str(node.target) for node in loaded.graph.nodes if node.op == "call_function"}
    assert not any("dtag_fast" in name for name in operators)


def test_the_file_needs_neither_this_package_nor_its_critic(tmp_path):
    policy, setting = make_policy("cql"), AGSetting(2, 0.1)
    export_program(policy, tmp_path / "p.pt2", critic=make_critic(), setting=setting)
    inputs = random_inputs(Acting(policy), 6, seed=1)
    np.savez(tmp_path / "in.npz", **inputs)
    code = """
import sys, numpy, torch
program = torch.export.load("p.pt2").module()
inputs = [torch.from_numpy(x) for x in numpy.load("in.npz").values()]
numpy.save("out.npy", program(*inputs)[0].numpy())
assert not any(name.startswith("dtag_fast") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    expected = expected_outputs(Acting(policy, make_critic(), setting), inputs)[0]
    assert abs(np.load(tmp_path / "out.npy") - expected).max() < 1e-4


class Acts(nn.Module):
    """refine, or a Refiner, after something."""

    def __init__(self, critic, refiner=None):
        super().__init__()
        self.critic, self.refiner = critic, refiner

    def forward(self, states, actions):
        if self.refiner is not None:
            return self.refiner(states, actions * 0.5)
        return refine(self.critic, states, actions * 0.5, steps=5, lr=0.1)


@pytest.mark.parametrize("prepared", [False, True], ids=["refine", "Refiner"])
def test_refine_exports_saves_and_loads(prepared, tmp_path):
    """As one operator, whose critic must be alive in the process; the batch is dynamic."""
    critic = make_critic().critic
    acts = Acts(critic, Refiner(critic, steps=5, lr=0.1) if prepared else None)
    batch = torch.export.Dim("batch")
    example = (torch.randn(4, S), torch.rand(4, A))
    program = torch.export.export(acts, example, dynamic_shapes=({0: batch}, {0: batch}))
    assert any("dtag_fast.refine" in str(node.target) for node in program.graph.nodes)
    torch.export.save(program, tmp_path / "refine.pt2")
    loaded = torch.export.load(tmp_path / "refine.pt2")
    for rows in (4, 1, 9):
        states, actions = torch.randn(rows, S), torch.rand(rows, A)
        expected = acts(states, actions)
        assert not torch.equal(expected, actions * 0.5)
        for module in (program.module(), loaded.module()):
            assert torch.equal(module(states, actions), expected)


def test_a_half_written_program_is_not_left(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(torch.export, "save", full)
    with pytest.raises(OSError, match="No space"):
        export_program(make_policy("bc"), tmp_path / "p.pt2")
    assert list(tmp_path.iterdir()) == []
