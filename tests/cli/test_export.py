"""`dtag export`: files that other runtimes take, and one sentence where there can be none."""

import shlex
import sys

import numpy as np
import pytest
import torch
from exported_policies import make_critic, make_policy

from dtag_fast.cli.main import main
from dtag_fast.interop import from_pretrained
from dtag_fast.interop.export.acting import Acting
from dtag_fast.interop.export.verification import expected_outputs, random_inputs, verify
from dtag_fast.rollout.settings import AGSetting
from dtag_fast.training.checkpoint import save_checkpoint


@pytest.fixture
def dtag(tmp_path, monkeypatch, capsys):
    """dtag("export run ...") -> (exit code, standard output, standard error), where runs of a Decision
    Transformer ("run"), of one with discrete actions ("discrete"), of a policy of the present state ("state")
    and of a critic ("critic") are."""
    monkeypatch.chdir(tmp_path)
    for name, kind in (("run", "dt"), ("discrete", "dt-discrete"), ("state", "bc")):
        policy = make_policy(kind)
        save_checkpoint(tmp_path / name, policy.info, {"model": policy.model}, {})
    critic = make_critic()
    save_checkpoint(tmp_path / "critic", critic.info, {"critic": critic.critic}, {})

    def call(line: str):
        code = main(shlex.split(line))
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_all_three_at_once(dtag, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    options = "--critic critic --ag-steps 2 --ag-lr 0.1 --ag-gradient clip:0.5 --ag-select last"
    code, out, err = dtag(f"export run --onnx a.onnx --pt2 a.pt2 --pretrained hub {options}")
    assert (code, err) == (0, "")
    assert "AG n=2 lr=0.1" in out and "compared: onnxruntime" in out and "states (batch, 4, 3)" in out
    policy, critic = from_pretrained("hub")
    from dtag_fast import ClipNorm

    setting = AGSetting(2, 0.1, gradient=ClipNorm(0.5), select="last")
    acting = Acting(policy, critic, setting)
    session = onnxruntime.InferenceSession("a.onnx", providers=["CPUExecutionProvider"])
    program = torch.export.load("a.pt2").module()
    verify(acting, lambda inputs: session.run(None, inputs), "onnxruntime")
    verify(
        acting, lambda inputs: [x.numpy() for x in program(*map(torch.from_numpy, inputs.values()))], "pt2"
    )


def test_a_critic_means_ten_steps_and_none_the_plain_policy(dtag):
    assert "AG n=10 lr=0.03" in dtag("export state --pt2 a.pt2 --critic critic")[1]
    assert "plain policy" in dtag("export state --pt2 a.pt2")[1]
    policy = make_policy("bc")
    inputs = random_inputs(Acting(policy), 3, seed=2)
    found = torch.export.load("a.pt2").module()(*map(torch.from_numpy, inputs.values()))[0].numpy()
    assert np.abs(found - expected_outputs(Acting(policy), inputs)[0]).max() < 1e-5


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("export run", "expected at least one"),
        ("export run --pt2 a.pt2 --ag-steps 3", "need --critic"),
        ("export run --pt2 a.pt2 --evaluation e.json", "--pretrained"),
        ("export run --pt2 .", "expected a file"),
        ("export critic --pt2 a.pt2", "holds none"),
        ("export nothing --pt2 a.pt2", "no such folder"),
        ("export run --pt2 a.pt2 --critic run", "holds none"),
        ("export run --pt2 a.pt2 --critic critic --ag-reduce 7", "reduce"),
        ("export run --pt2 a.pt2 --critic critic --ag-steps -1", "steps"),
        ("export discrete --pt2 a.pt2 --critic critic", "continuous actions"),
        ("export run --pretrained critic", "choose another name"),
    ],
)
def test_refusals_are_one_sentence(dtag, line, sentence, tmp_path):
    before = sorted(tmp_path.iterdir())
    code, out, err = dtag(line)
    assert code == 2 and out == "" and err.count("\n") == 1
    assert err.startswith("dtag export: ") and sentence in err
    assert sorted(tmp_path.iterdir()) == before


def test_without_onnx_the_extra_is_named(dtag, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    code, _, err = dtag("export run --onnx a.onnx --pt2 a.pt2")
    assert code == 2 and 'pip install "dtag_fast[export]"' in err
