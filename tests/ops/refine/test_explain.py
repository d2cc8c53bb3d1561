"""What `explain` says, and the warning of the slow way."""

import warnings

import pytest
import torch
from small_critics import BACKENDS, A, critic_of, inputs, needs_cpu, quiet
from torch import nn

import dtag_fast.ops.refine.backends as backends_module
from dtag_fast import explain, refine

pytestmark = quiet


def test_explain_names_every_backend():
    critic, (states, actions) = critic_of(), inputs()
    answer = explain(critic, states)
    text = str(answer)
    assert text == str(explain(critic, states, actions))
    assert answer.backend == BACKENDS[-1] and answer.lowered
    assert "2 members, 5 + 3 -> 32 relu -> 32 relu -> 1" in text
    assert "not cuda: tensors are on cpu" in text and "not triton: tensors are on cpu" in text


@needs_cpu
@pytest.mark.parametrize(
    ("setting", "precision"), [("highest", "fp32"), ("high", "fp32"), ("medium", "bf16")]
)
def test_precision_follows_torch(setting, precision):
    critic, (states, actions) = critic_of(), inputs()
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(setting)
        answer = explain(critic, states)
        followed = refine(critic, states, actions, lr=0.2)
    finally:
        torch.set_float32_matmul_precision(before)
    assert answer.precision == precision and f'"{setting}"' in str(answer)
    assert torch.equal(followed, refine(critic, states, actions, lr=0.2, precision=setting))
    exact = refine(critic, states, actions, lr=0.2, precision="highest")
    torch.testing.assert_close(followed, exact, rtol=0, atol=0 if precision == "fp32" else 2e-2)


def test_without_the_compiled_module_everything_works(monkeypatch):
    monkeypatch.setattr(backends_module, "compiled_cpu", lambda: "left out by DTAG_BUILD=0")
    critic, (states, actions) = critic_of(), inputs()
    with pytest.warns(RuntimeWarning, match="left out by DTAG_BUILD=0"):
        refined = refine(critic, states, actions)
    assert torch.equal(refined, refine(critic, states, actions, backend="torch"))
    answer = explain(critic, states)
    assert answer.backend == "torch" and "not cpu: left out by DTAG_BUILD=0" in str(answer)
    with pytest.raises(ValueError, match="DTAG_BUILD=0"):
        refine(critic, states, actions, backend="cpu")


def test_one_warning_per_critic():
    class Odd(nn.Module):
        def forward(self, state, action):
            return -(action * state[:, :A].sigmoid()).sum(-1)

    critic, (states, actions) = Odd(), inputs()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for lr in (0.1, 0.1, 0.2):
            refine(critic, states, actions, lr=lr)
        refine(critic, states, actions, backend="torch")
    assert len([w for w in seen if w.category is RuntimeWarning]) == 1
