"""Attention and Decision Transformers as they are usually written, on the weights of ours."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from dtag_fast.models import DecisionTransformer


def seen(start: Tensor, tokens: int) -> Tensor:
    """(B, 1, S, S) bool of causal attention with left padding; padding sees itself, so that no NaN arises."""
    at = torch.arange(tokens, device=start.device)
    causal = at[:, None] >= at
    return (causal & (at >= start[:, None, None]) | (at[:, None] == at))[:, None]


def heads(qkv: Tensor) -> list[Tensor]:
    """(B, S, 3, H, D) -> three of (B, H, S, D), views."""
    return [x.transpose(1, 2) for x in qkv.unbind(2)]


def sdpa(qkv: Tensor, mask: Tensor, dropout_p: float = 0.0) -> Tensor:
    """PyTorch's attention, by the backend it takes or that a context manager allows. (B, S, H * D)"""
    out = F.scaled_dot_product_attention(*heads(qkv), attn_mask=mask, dropout_p=dropout_p)
    return out.transpose(1, 2).flatten(2)


def gpt2(qkv: Tensor, mask: Tensor, dropout_p: float = 0.0) -> Tensor:
    """The operations of the attention in the original Decision Transformer's GPT-2, one by one."""
    q, k, v = heads(qkv)
    scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(q.shape[-1])
    lowest = torch.full((), torch.finfo(scores.dtype).min, dtype=scores.dtype, device=scores.device)
    weights = F.dropout(torch.softmax(torch.where(mask, scores, lowest), dim=-1), dropout_p)
    return torch.matmul(weights, v).transpose(1, 2).flatten(2)


class PlainDecisionTransformer(DecisionTransformer):
    """Every token through every block, a mask made for each block, PyTorch's attention and dropout."""

    def hidden(self, states, actions, returns_to_go, timesteps, mask, wanted, generator):
        p = self.config.dropout if self.training else 0.0
        tokens = [self.embed_return(returns_to_go), self.embed_state(states), self.embed_action(actions)]
        x = torch.stack(tokens, dim=2) + self.embed_timestep(timesteps)[:, :, None]  # (B, K, 3, D)
        x = self.embed_norm(x.flatten(1, 2))
        real = mask.repeat_interleave(3, dim=1)
        for block in self.transformer.blocks:
            size = x.shape[1]
            causal = torch.ones(size, size, dtype=torch.bool, device=x.device).tril()
            itself = torch.eye(size, dtype=torch.bool, device=x.device)
            allowed = ((causal & real[:, None]) | itself)[:, None]
            qkv = block.attention.qkv(x).unflatten(-1, (3, block.attention.n_head, -1))
            attended = block.attention.out(sdpa(qkv, allowed, p))
            x = block.norm_1(x + F.dropout(attended, p))
            hidden = block.contract(block.activation(block.expand(x)))
            x = block.norm_2(x + F.dropout(hidden, p))
        return x.unflatten(1, (-1, 3))[:, :, [self.ORDER.index(name) for name in wanted]]
