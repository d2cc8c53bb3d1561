"""Sequence models of discrete actions: logits in training, the one-hot row of the largest in acting."""

import pytest
import torch

from dtag_fast.models import (
    AutotunedDecisionTransformer,
    AutotunedDecisionTransformerConfig,
    DecisionTransformer,
    DecisionTransformerConfig,
    Decoder,
    ElasticDecisionTransformer,
    ElasticDecisionTransformerConfig,
    OnlineDecisionTransformer,
    OnlineDecisionTransformerConfig,
    Reinformer,
    ReinformerConfig,
)
from dtag_fast.models.registry import build, describe

B, K, S, A = 5, 4, 3, 6
KINDS = {
    "dt": (DecisionTransformer, DecisionTransformerConfig),
    "reinformer": (Reinformer, ReinformerConfig),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def make(kind: str, discrete: bool = True, **options):
    torch.manual_seed(1)
    model, config = KINDS[kind]
    sizes = {"state_dim": S, "action_dim": A, "context_len": K, "d_model": 16, "n_layer": 2, "n_head": 2}
    made = model(config(**sizes, max_timestep=30, timestep_std=0.02, discrete=discrete, **options)).eval()
    with torch.no_grad():
        made.action_head.weight.mul_(5)
    return made


def windows(padding: str = "right", seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    lengths, steps = torch.tensor([1, 2, 3, 4, 4])[:, None], torch.arange(K)
    numbers = torch.randint(A, (B, K), generator=g)
    return {
        "states": torch.randn(B, K, S, generator=g),
        "actions": torch.nn.functional.one_hot(numbers, A).float(),
        "returns_to_go": torch.rand(B, K, 1, generator=g),
        "timesteps": steps.expand(B, K),
        "mask": steps < lengths if padding == "right" else steps >= K - lengths,
    }


@every_kind
def test_logits_are_what_a_continuous_model_puts_into_tanh(kind):
    model, continuous = make(kind), make(kind, discrete=False)
    continuous.load_state_dict(model.state_dict(), strict=False)
    out, other = model(**windows()), continuous(**windows())
    assert torch.equal(out.action_logits.tanh(), other.actions)
    assert other.action_logits is None and out.log_std is None
    assert torch.equal(out.actions.argmax(-1), out.action_logits.argmax(-1))
    assert torch.equal(out.actions.sum(-1), torch.ones(B, K)) and out.actions.unique().tolist() == [0, 1]
    assert len(out.actions.argmax(-1).unique()) > 1
    assert out.action_logits.requires_grad and not out.actions.requires_grad


@every_kind
@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("trim", [True, False])
def test_act_equals_the_plain_forwards(kind, padding, trim):
    model, batch = make(kind, padding=padding), windows(padding)
    rows = torch.arange(B)
    last = batch["mask"].sum(1) - 1 if padding == "right" else torch.full((B,), K - 1)
    action, predicted = model.act(**batch, trim=trim)
    if predicted is not None:
        batch["returns_to_go"][rows, last] = predicted
    assert torch.equal(action, model(**batch).actions[rows, last])


def test_the_first_of_equal_logits_is_taken_and_nothing_that_is_not_finite():
    model = make("dt")
    head = torch.zeros(4, A)
    head[1, 2:4] = 7.0
    head[2, 5], head[3, 0] = torch.nan, torch.inf
    actions = model.action_of(head)
    assert actions[:2].argmax(-1).tolist() == [0, 2] and actions[:2].sum(-1).tolist() == [1, 1]
    assert actions[2:].isnan().all()


@every_kind
def test_the_decoder_steps_in_the_compiled_module(kind):
    """Everything else about its steps: test_decoder.py, ops/decode/test_compiled_steps.py."""
    pytest.importorskip("dtag_fast._C", reason="the compiled module is not built")
    model = make(kind)
    decoder = Decoder(model, 1)
    assert "one call of the compiled module" in decoder.explain()
    returns = None if model.predicts_returns else torch.ones(1, 1)
    spoilt = torch.full((1, S), torch.nan)
    assert decoder.act(None, torch.tensor([0]), torch.zeros(1, A), spoilt, returns)[0].isnan().all()


@every_kind
def test_a_description_brings_it_back_and_one_of_before_is_continuous(kind):
    model = make(kind)
    again = build(describe(model))
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(**windows()).action_logits, model(**windows()).action_logits)
    assert not any("bounds" in name or "log_std" in name for name in model.state_dict())
    before = describe(make(kind, discrete=False))
    del before["config"]["discrete"]
    assert build(before).config == make(kind, discrete=False).config


def test_bounds_of_discrete_actions_are_refused():
    with pytest.raises(ValueError, match="action_low, action_high: discrete actions have no bounds"):
        DecisionTransformer(
            DecisionTransformerConfig(state_dim=S, action_dim=A, discrete=True), action_low=[0.0] * A
        )


@pytest.mark.parametrize(
    ("model", "config"),
    [
        (AutotunedDecisionTransformer, AutotunedDecisionTransformerConfig),
        (OnlineDecisionTransformer, OnlineDecisionTransformerConfig),
        (ElasticDecisionTransformer, ElasticDecisionTransformerConfig),
    ],
)
def test_models_without_such_a_head_say_so(model, config):
    with pytest.raises(
        ValueError, match=f"discrete: {model.__name__} has continuous actions alone; Decision"
    ):
        model(config(state_dim=S, action_dim=A, d_model=16, n_head=2, discrete=True))
