"""Decision Transformers with the layouts of other codes, written here from what is known of their shapes.

Names of modules, and with them those of the tensors in a state dict, are the foreign ones; the computation is
that of the architecture, in the plainest form.
"""

import torch
from torch import nn
from torch.nn import functional as F


def causal(tokens: int) -> torch.Tensor:
    return torch.ones(tokens, tokens).tril().bool()


def attend(q, k, v, heads: int, hidden: torch.Tensor) -> torch.Tensor:
    """softmax(q k^T / sqrt(D/H)) v; hidden (B, 1, T, T) bool, True where nothing is seen."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    weights = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    # A finite number, as padding at the beginning sees nothing at all.
    weights = weights.masked_fill(hidden, -1e9).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(-2)


def hide(mask: torch.Tensor) -> torch.Tensor:
    """(B, 1, 3K, 3K) of real steps `mask` (B, K): later tokens and padding."""
    real = mask.repeat_interleave(3, dim=1)
    return ~(causal(real.shape[1])[None] & real[:, None, :])[:, None]


def interleave(*kinds: torch.Tensor) -> torch.Tensor:
    """(B, K, D) of three kinds -> (B, 3K, D)."""
    return torch.stack(kinds, dim=2).flatten(1, 2)


class TransposedLinear(nn.Module):
    """y = x W + b with W (inputs, outputs)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(0.2 * torch.randn(inputs, outputs))
        self.bias = nn.Parameter(0.2 * torch.randn(outputs))

    def forward(self, x):
        return x @ self.weight + self.bias


class _Gpt2Attention(nn.Module):
    def __init__(self, d: int, heads: int, positions: int):
        super().__init__()
        self.n_head = heads
        self.register_buffer("bias", torch.ones(1, 1, positions, positions, dtype=torch.uint8).tril())
        self.register_buffer("masked_bias", torch.tensor(-1e4))
        self.c_attn, self.c_proj = TransposedLinear(d, 3 * d), TransposedLinear(d, d)

    def forward(self, x, hidden):
        return self.c_proj(attend(*self.c_attn(x).chunk(3, dim=-1), self.n_head, hidden))


class _Gpt2Mlp(nn.Module):
    def __init__(self, d: int, inner: int):
        super().__init__()
        self.c_fc, self.c_proj = TransposedLinear(d, inner), TransposedLinear(inner, d)

    def forward(self, x):
        return self.c_proj(F.relu(self.c_fc(x)))


class _Gpt2Block(nn.Module):
    def __init__(self, d: int, heads: int, inner: int, positions: int):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.attn, self.mlp = _Gpt2Attention(d, heads, positions), _Gpt2Mlp(d, inner)

    def forward(self, x, hidden):
        x = x + self.attn(self.ln_1(x), hidden)
        return x + self.mlp(self.ln_2(x))


class _Gpt2(nn.Module):
    def __init__(self, d: int, layers: int, heads: int, inner: int):
        super().__init__()
        self.wte = nn.Embedding(1, d)
        self.h = nn.ModuleList(_Gpt2Block(d, heads, inner, 32) for _ in range(layers))
        self.ln_f = nn.LayerNorm(d)


class KzlDecisionTransformer(nn.Module):
    """Layout of kzl/decision-transformer's gym code."""

    def __init__(
        self, state_dim=3, act_dim=2, d=16, layers=2, heads=1, max_length=4, max_ep_len=50, inner=None
    ):
        super().__init__()
        self.max_length = max_length
        self.transformer = _Gpt2(d, layers, heads, inner or 4 * d)
        self.embed_timestep = nn.Embedding(max_ep_len, d)
        self.embed_return, self.embed_state = nn.Linear(1, d), nn.Linear(state_dim, d)
        self.embed_action, self.embed_ln = nn.Linear(act_dim, d), nn.LayerNorm(d)
        self.predict_state, self.predict_return = nn.Linear(d, state_dim), nn.Linear(d, 1)
        self.predict_action = nn.Sequential(nn.Linear(d, act_dim), nn.Tanh())

    def forward(self, states, actions, returns, timesteps, mask):
        time = self.embed_timestep(timesteps)
        kinds = self.embed_return(returns), self.embed_state(states), self.embed_action(actions)
        x = self.embed_ln(interleave(*(kind + time for kind in kinds)))
        for block in self.transformer.h:
            x = block(x, hide(mask))
        return self.predict_action(self.transformer.ln_f(x)[:, 1::3])


class _MinAttention(nn.Module):
    def __init__(self, d: int, heads: int, tokens: int):
        super().__init__()
        self.n_heads = heads
        self.q_net, self.k_net, self.v_net = (nn.Linear(d, d) for _ in range(3))
        self.proj_net = nn.Linear(d, d)
        self.register_buffer("mask", causal(tokens).float()[None, None])

    def forward(self, x):
        hidden = self.mask[..., : x.shape[1], : x.shape[1]] == 0
        return self.proj_net(attend(self.q_net(x), self.k_net(x), self.v_net(x), self.n_heads, hidden))


class _MinBlock(nn.Module):
    def __init__(self, d: int, heads: int, tokens: int):
        super().__init__()
        self.attention = _MinAttention(d, heads, tokens)
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d), nn.Dropout(0.0))
        self.ln1, self.ln2 = nn.LayerNorm(d), nn.LayerNorm(d)

    def forward(self, x):
        x = self.ln1(x + self.attention(x))
        return self.ln2(x + self.mlp(x))


class MinDecisionTransformer(nn.Module):
    """Layout of min-decision-transformer; padding stands behind and is seen by nothing before it."""

    def __init__(self, state_dim=3, act_dim=2, d=16, layers=2, heads=1, context_len=4, max_timestep=50):
        super().__init__()
        self.transformer = nn.Sequential(*(_MinBlock(d, heads, 3 * context_len) for _ in range(layers)))
        self.embed_ln, self.embed_timestep = nn.LayerNorm(d), nn.Embedding(max_timestep, d)
        self.embed_rtg, self.embed_state = nn.Linear(1, d), nn.Linear(state_dim, d)
        self.embed_action = nn.Linear(act_dim, d)
        self.predict_rtg, self.predict_state = nn.Linear(d, 1), nn.Linear(d, state_dim)
        self.predict_action = nn.Sequential(nn.Linear(d, act_dim), nn.Tanh())

    def forward(self, states, actions, returns, timesteps, mask):
        time = self.embed_timestep(timesteps)
        kinds = self.embed_rtg(returns), self.embed_state(states), self.embed_action(actions)
        x = self.embed_ln(interleave(*(kind + time for kind in kinds)))
        return self.predict_action(self.transformer(x)[:, 1::3])


class _CorlBlock(nn.Module):
    def __init__(self, d: int, heads: int, tokens: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.attention = nn.MultiheadAttention(d, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d), nn.Dropout(0.0))
        self.register_buffer("causal_mask", ~causal(tokens))

    def forward(self, x, padding):
        seen, t = self.norm1(x), x.shape[1]
        masks = {"attn_mask": self.causal_mask[:t, :t], "key_padding_mask": padding}
        x = x + self.attention(seen, seen, seen, **masks, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class CorlDecisionTransformer(nn.Module):
    """Layout of CORL's dt.py."""

    def __init__(
        self, state_dim=3, act_dim=2, d=16, layers=2, heads=1, seq_len=4, episode_len=46, max_action=1.0
    ):
        super().__init__()
        self.max_action = max_action
        self.emb_norm, self.out_norm = nn.LayerNorm(d), nn.LayerNorm(d)
        self.timestep_emb = nn.Embedding(episode_len + seq_len, d)
        self.state_emb, self.action_emb = nn.Linear(state_dim, d), nn.Linear(act_dim, d)
        self.return_emb = nn.Linear(1, d)
        self.blocks = nn.ModuleList(_CorlBlock(d, heads, 3 * seq_len) for _ in range(layers))
        self.action_head = nn.Sequential(nn.Linear(d, act_dim), nn.Tanh())

    def forward(self, states, actions, returns, timesteps, mask):
        time = self.timestep_emb(timesteps)
        kinds = self.return_emb(returns), self.state_emb(states), self.action_emb(actions)
        x = self.emb_norm(interleave(*(kind + time for kind in kinds)))
        for block in self.blocks:
            x = block(x, ~mask.repeat_interleave(3, dim=1))
        return self.max_action * self.action_head(self.out_norm(x)[:, 1::3])


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module in eval mode with all its parameters drawn, LayerNorms and biases too, so that no tensor
    can be mistaken for another."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        of_norm = parameter.ndim == 1 and name.endswith("weight")
        parameter.data = of_norm + 0.3 * torch.randn(parameter.shape, generator=generator)
    return module.eval()


def with_positions(state_dim=3, act_dim=2, max_ep_len=50) -> tuple[nn.Module, dict, dict]:
    """A network by hand, its tensors as Hugging Face's DecisionTransformerModel names them, and a config.

    That model adds row 0 of a position table to every token; the row is taken off a bias here.
    """
    module = randomised(KzlDecisionTransformer(state_dim, act_dim, heads=2, max_ep_len=max_ep_len))
    tensors = {
        name.replace("transformer.", "encoder."): tensor.contiguous()
        for name, tensor in module.state_dict().items()
    }
    tensors["encoder.wpe.weight"] = 0.3 * torch.randn(8, 16)
    tensors["embed_ln.bias"] = tensors["embed_ln.bias"] - tensors["encoder.wpe.weight"][0]
    sizes = {"state_dim": state_dim, "act_dim": act_dim, "max_ep_len": max_ep_len, "n_layer": 2, "n_head": 2}
    return module, tensors, {"model_type": "decision_transformer", "hidden_size": 16} | sizes


def windows(state_dim=3, act_dim=2, context_len=4, padding="right", max_timestep=50, seed=0) -> dict:
    """Seven windows of 1 to K real steps, by the names of a SequenceModel's arguments."""
    generator = torch.Generator().manual_seed(seed)
    rows, k = 7, context_len
    lengths = torch.arange(rows) % k + 1
    first = torch.randint(0, max_timestep - k, (rows,), generator=generator)
    columns = torch.arange(k)
    if padding == "right":
        mask, timesteps = columns < lengths[:, None], first[:, None] + columns
    else:
        mask, timesteps = columns >= k - lengths[:, None], first[:, None] + columns - (k - lengths[:, None])
    real = mask[..., None].float()
    return {
        "states": real * torch.randn(rows, k, state_dim, generator=generator),
        "actions": real * torch.randn(rows, k, act_dim, generator=generator).tanh(),
        "returns_to_go": real * torch.randn(rows, k, 1, generator=generator),
        "timesteps": torch.where(mask, timesteps, 0),
        "mask": mask,
    }


@torch.no_grad()
def assert_same_actions(model, theirs, context_len=4, **sizes) -> None:
    """Our model's actions are those of theirs(states, actions, returns, timesteps, mask), within 1e-5: of
    every real step of windows that are padded as the model pads, and of the last step by `act`."""
    given = windows(context_len=context_len, padding=model.config.padding, **sizes)
    expected = theirs(*given.values())
    assert expected.std() > 0.05  # windows of which any network would give the same say nothing
    found = model(**given).actions
    mask = given["mask"]
    torch.testing.assert_close(found[mask], expected[mask], rtol=0, atol=1e-5)
    last = mask.sum(1) - 1 if model.config.padding == "right" else torch.full((len(mask),), context_len - 1)
    acted = model.act(**given)[0]
    torch.testing.assert_close(acted, expected[torch.arange(len(mask)), last], rtol=0, atol=1e-5)
