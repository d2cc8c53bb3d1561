"""Decision Transformer, Reinformer and ODT: causality, padding, and acting equal to the plain forward."""

import pytest
import torch

from dtag_fast.models import (
    DecisionTransformer,
    DecisionTransformerConfig,
    OnlineDecisionTransformer,
    OnlineDecisionTransformerConfig,
    Reinformer,
    ReinformerConfig,
)
from dtag_fast.models.registry import build, describe

B, K, S, A = 6, 5, 4, 3
SMALL = {
    "state_dim": S,
    "action_dim": A,
    "context_len": K,
    "d_model": 16,
    "n_layer": 3,
    "n_head": 2,
    "max_timestep": 64,
}


def make(kind: str, **options):
    torch.manual_seed(1)
    model, config = {
        "dt": (DecisionTransformer, DecisionTransformerConfig),
        "reinformer": (Reinformer, ReinformerConfig),
        "odt": (OnlineDecisionTransformer, OnlineDecisionTransformerConfig),
    }[kind]
    return model(
        config(**{**SMALL, **options}), action_low=[-1.0, -2.0, 0.0], action_high=[1.0, 2.0, 4.0]
    ).eval()


def windows(lengths: list[int], padding: str, seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    steps = torch.arange(K)
    lengths = torch.tensor(lengths)[:, None]
    mask = steps < lengths if padding == "right" else steps >= K - lengths
    batch = {
        "states": torch.randn(len(lengths), K, S, generator=g),
        "actions": torch.rand(len(lengths), K, A, generator=g) * 2 - 1,
        "returns_to_go": torch.rand(len(lengths), K, 1, generator=g),
        "timesteps": torch.randint(0, 50, (len(lengths), K), generator=g),
    }
    return {k: v * mask.view(*mask.shape, *[1] * (v.ndim - 2)) for k, v in batch.items()} | {"mask": mask}


LENGTHS = {"full": [K] * B, "short": [2] * B, "mixed": [1, 2, 3, 4, 5, 5]}
STYLES = {"min-dt": {"norm": "post", "activation": "gelu"}, "gpt2": {"norm": "pre", "activation": "relu"}}
every_kind = pytest.mark.parametrize("kind", ["dt", "reinformer", "odt"])


@every_kind
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("trim", [True, False])
def test_act_equals_the_plain_forwards(kind, style, padding, lengths, trim):
    model = make(kind, padding=padding, **STYLES[style])
    batch = windows(LENGTHS[lengths], padding)
    rows = torch.arange(B)
    last = batch["mask"].sum(1) - 1 if padding == "right" else torch.full((B,), K - 1)
    action, predicted = model.act(**batch, trim=trim)

    returns = batch["returns_to_go"].clone()
    if kind == "reinformer":
        expected_return = model(**batch).returns[rows, last]
        torch.testing.assert_close(predicted, expected_return, rtol=1e-5, atol=1e-6)
        returns[rows, last] = expected_return
    else:
        assert predicted is None
    expected = model(**{**batch, "returns_to_go": returns}).actions[rows, last]
    torch.testing.assert_close(action, expected, rtol=1e-5, atol=1e-6)


@every_kind
@pytest.mark.parametrize("omit", [1, 2])
def test_tokens_are_those_of_the_layers_bit_for_bit(kind, omit):
    model, batch = make(kind), windows(LENGTHS["mixed"], "right")
    embedded = {
        "state": model.embed_state(batch["states"]),
        "action": model.embed_action(batch["actions"]),
        "return": model.embed_return(batch["returns_to_go"]),
    }
    tokens = torch.stack([embedded[name] for name in model.ORDER], dim=2)
    tokens = tokens + model.embed_timestep(batch["timesteps"])[:, :, None]
    wanted = model.embed_norm(tokens.flatten(1, 2)[:, :-omit])
    inputs = [batch[name] for name in ("states", "actions", "returns_to_go", "timesteps")]
    assert torch.equal(model.embed(*inputs, omit=omit), wanted)


@every_kind
def test_act_ignores_what_is_not_known_yet(kind):
    model = make(kind)
    batch = windows(LENGTHS["full"], "right")
    later = {k: v.clone() for k, v in batch.items()}
    later["actions"][:, -1] = 9.0
    if kind == "reinformer":
        later["returns_to_go"][:, -1] = 9.0
    for a, b in zip(model.act(**batch), model.act(**later), strict=True):
        assert a is b is None or torch.equal(a, b)


@pytest.mark.parametrize(
    "kind, output, sees",
    [
        ("dt", "actions", {"returns_to_go": True, "states": True, "actions": False}),
        ("odt", "actions", {"returns_to_go": True, "states": True, "actions": False}),
        ("odt", "log_std", {"returns_to_go": True, "states": True, "actions": False}),
        ("reinformer", "returns", {"states": True, "returns_to_go": False, "actions": False}),
        ("reinformer", "actions", {"states": True, "returns_to_go": True, "actions": False}),
    ],
)
def test_a_prediction_sees_the_past_and_its_own_earlier_tokens(kind, output, sees):
    """Change one input at step t: outputs before t stay, the output at t moves if the token comes first."""
    model, t = make(kind), 2
    batch = windows(LENGTHS["full"], "right")
    before = getattr(model(**batch), output)
    for name, visible in sees.items():
        changed = {k: v.clone() for k, v in batch.items()}
        changed[name][:, t] += 0.5
        moved = (getattr(model(**changed), output) - before).abs().amax(dim=(0, 2)) > 1e-6
        assert moved.tolist() == [False, False, visible, True, True], name


@every_kind
@pytest.mark.parametrize("padding", ["left", "right"])
def test_padding_changes_no_prediction_of_a_real_step(kind, padding):
    model = make(kind, padding=padding)
    batch = windows(LENGTHS["mixed"], padding)
    mask = batch["mask"]
    expected = model(**batch).actions[mask]
    for name in ("states", "actions", "returns_to_go"):
        batch[name] = torch.where(mask[..., None], batch[name], 1e3)
    assert torch.equal(model(**batch).actions[mask], expected)


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("wrong", [[1, 0, 1, 1, 1], [0, 1, 1, 1, 0]])
def test_a_mask_with_holes_is_refused(padding, wrong):
    batch = windows(LENGTHS["full"], padding)
    batch["mask"][2] = torch.tensor(wrong).bool()
    with pytest.raises(ValueError, match=f"mask: expected the real steps .* padding on the {padding}"):
        make("dt", padding=padding)(**batch)


@every_kind
def test_the_backend_of_attention_is_a_switch(kind):
    model = make(kind, padding="right")
    batch, mask = windows(LENGTHS["mixed"], "right"), windows(LENGTHS["mixed"], "right")["mask"]
    found = {}
    for backend in (None, "sdpa", "reference"):
        model.attention = backend
        assert model.attention == backend
        found[backend] = model(**batch).actions[mask]
    assert torch.equal(found[None], found["sdpa"])
    torch.testing.assert_close(found["reference"], found["sdpa"], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="attention: expected one of fused, triton, sdpa, reference or None"):
        model.attention = "flash"


@every_kind
def test_the_model_explains_how_it_is_computed(kind):
    model = make(kind)
    assert model.explain().startswith("tokens: torch (")
    assert "blocks: operator by operator" in model.explain() and "attention: sdpa (" in model.explain()
    model.attention = "reference"
    assert "('reference' was asked for)" in model.explain().replace("attention=", "")
    assert "attention: reference (asked for)" in model.explain()


@every_kind
def test_actions_stay_inside_their_bounds(kind):
    model = make(kind)
    torch.nn.init.normal_(model.action_head.weight, std=100.0)
    actions = model(**windows(LENGTHS["full"], "right")).actions
    low, high = torch.tensor([-1.0, -2.0, 0.0]), torch.tensor([1.0, 2.0, 4.0])
    assert (actions >= low).all() and (actions <= high).all()
    assert (actions == low).any() and (actions == high).any()


def test_log_std_is_clamped():
    model = make("reinformer")
    model.action_log_std.data = torch.tensor([-30.0, 0.5, 7.0])
    assert model(**windows(LENGTHS["full"], "right")).log_std.tolist() == [-20.0, 0.5, 2.0]


def test_parameter_count_of_the_published_reinformer():
    """Hopper: 4,216,594 with the next-state head (256 -> 11), which no loss trains and is left out here."""
    model = Reinformer(ReinformerConfig(state_dim=11, action_dim=3))
    assert sum(p.numel() for p in model.parameters()) == 4_216_594 - (256 * 11 + 11)


@every_kind
def test_without_a_timestep_embedding_no_prediction_knows_the_timestep(kind):
    batch = windows(LENGTHS["full"], "right")
    later = batch | {"timesteps": batch["timesteps"] + 10}
    for embedded in (True, False):
        model = make(kind, timestep_embedding=embedded, padding="right")
        same = torch.equal(model(**batch).actions, model(**later).actions)
        assert same == (not embedded)
        assert ("embed_timestep.weight" in model.state_dict()) == embedded
    zero = make(kind, padding="right", timestep_embedding=True)
    zero.load_state_dict(model.state_dict(), strict=False)
    zero.embed_timestep.weight.data.zero_()
    assert torch.equal(zero(**batch).actions, model(**batch).actions)


def test_a_described_network_of_before_has_a_timestep_embedding():
    description = describe(make("dt"))
    del description["config"]["timestep_embedding"]
    assert build(description).config == make("dt").config


def test_odt_starts_with_orthogonal_heads_and_deviations_in_their_range():
    model = make("odt")
    for head in (model.action_head, model.log_std_head):
        torch.testing.assert_close(head.weight @ head.weight.T, torch.eye(A))
        assert (head.bias == 0).all()
    batch = windows(LENGTHS["full"], "left")
    for bias, expected in ((-20.0, -5.0), (0.0, -1.5), (20.0, 2.0)):
        model.log_std_head.weight.data.zero_()
        model.log_std_head.bias.data.fill_(bias)
        torch.testing.assert_close(model(**batch).log_std, torch.full((B, K, A), expected))


@pytest.mark.parametrize("kind", ["dt", "reinformer"])
def test_timestep_std_scales_the_timestep_embedding_only(kind):
    states = [make(kind, timestep_std=std).state_dict() for std in (1.0, 0.5)]
    assert torch.equal(states[1].pop("embed_timestep.weight"), states[0].pop("embed_timestep.weight") / 2)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@every_kind
def test_dropout_follows_the_generator_only(kind):
    model = make(kind, dropout=0.5, padding="right").train()
    batch = windows(LENGTHS["mixed"], "right")
    out = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(noise)
        out.append(model(**batch, generator=torch.Generator().manual_seed(seed)).actions)
    assert torch.equal(out[0], out[1]) and not torch.equal(out[0], out[2])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"n_layer": 0}, "n_layer: expected a positive integer, got 0"),
        ({"dropout": 1.0}, "dropout: expected a probability"),
        ({"padding": "middle"}, "padding: expected one of left, right, got 'middle'"),
        ({"norm": "both"}, "norm: expected one of post, pre"),
        ({"return_scale": 0.0}, "return_scale: expected a positive number"),
        ({"timestep_std": -1.0}, "timestep_std: expected a finite number of at least 0, got -1.0"),
    ],
)
def test_bad_configuration_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DecisionTransformerConfig(**{**SMALL, **options})


def test_parameter_count_of_the_published_odt():
    """About 13 million, as is said of it. By hand for hopper: tokens, heads, four blocks, two LayerNorms."""
    d, s, a = 512, 11, 3
    block = 12 * d * d + 9 * d + 4 * d  # qkv, out, MLP; their biases; two LayerNorms
    wanted = (s + a + 1) * d + 3 * d + 2 * d + 4 * block + 2 * d + 2 * (d * a + a)
    model = OnlineDecisionTransformer(OnlineDecisionTransformerConfig(state_dim=s, action_dim=a))
    assert sum(p.numel() for p in model.parameters()) == wanted


def test_unbounded_actions_are_refused():
    config = DecisionTransformerConfig(**SMALL)
    with pytest.raises(ValueError, match=r"action_high: expected .* bounded action space"):
        DecisionTransformer(config, action_low=[-1, -1, -1], action_high=[1, 1, float("inf")])
