"""What Decision Transformer and Reinformer share: configuration, token embedding, windows to act on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from dtag_fast.models.normalizer import ActionBounds, InputNormalizer
from dtag_fast.models.transformer import ActivationName, BlockBackend, Norm, Transformer
from dtag_fast.ops.attention import Padding
from dtag_fast.ops.attention import choose_backend as choose_attention
from dtag_fast.ops.dropout import dropout
from dtag_fast.ops.embedding import choose_backend as choose_embedding
from dtag_fast.ops.embedding import embed_tokens
from dtag_fast.ops.per_seed import is_batched


@dataclass(frozen=True, kw_only=True)
class SequenceConfig:
    """Architecture of a sequence policy. Saved in its checkpoint."""

    state_dim: int
    action_dim: int
    context_len: int = 20  # K: steps (three tokens each) the policy looks back
    d_model: int = 128  # width of a token
    n_layer: int = 3
    n_head: int = 1
    dropout: float = 0.1  # on attention weights, after attention, after the MLP
    max_timestep: int = 4096  # rows of the timestep embedding; episodes must be shorter
    timestep_std: float = 1.0  # of the timestep embedding before training
    timestep_embedding: bool = True  # False: tokens do not tell when they are, there is no table
    norm: Norm = "post"  # LayerNorm after ("post") or before ("pre") attention and MLP
    activation: ActivationName = "gelu"
    padding: Literal["left", "right"] = "right"  # side on which short histories are filled up
    return_scale: float = 1.0  # returns-to-go are divided by this before they become tokens
    discrete: bool = False  # actions are one-hot rows of action_dim numbers, the head gives their logits

    def __post_init__(self) -> None:
        for name in (
            "state_dim",
            "action_dim",
            "context_len",
            "d_model",
            "n_layer",
            "n_head",
            "max_timestep",
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: expected a positive integer, got {value!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: expected a probability in [0, 1), got {self.dropout}")
        if not self.return_scale > 0:
            raise ValueError(f"return_scale: expected a positive number, got {self.return_scale}")
        if not 0 <= self.timestep_std < math.inf:
            raise ValueError(f"timestep_std: expected a finite number of at least 0, got {self.timestep_std}")
        for name, known in (
            ("norm", ("post", "pre")),
            ("activation", ("gelu", "relu")),
            ("padding", ("left", "right")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}, got {getattr(self, name)!r}")


class SequenceOutput(NamedTuple):
    """Predictions for every step of a window; those of padding steps mean nothing."""

    # (B, K, A), the mean of the action distribution, inside the action bounds; of discrete actions the
    # one-hot row of the most probable, without a gradient
    actions: Tensor
    returns: Tensor | None  # (B, K, 1) predicted scaled return-to-go, or None
    # log standard deviation of the actions, (A,) or (B, K, A); None for a deterministic policy
    log_std: Tensor | None
    action_logits: Tensor | None = None  # (B, K, A) of discrete actions, before the softmax; else None


class Window(NamedTuple):
    """A window prepared for acting: empty columns cut away, and where each row's last real step stands."""

    states: Tensor
    actions: Tensor
    returns_to_go: Tensor
    timesteps: Tensor
    mask: Tensor
    last: Tensor  # (B,) column of the last real step
    full: bool  # no column of any row is padding; known when windows may be trimmed


class NoTimesteps(nn.Module):
    """Stands where a timestep embedding would: nothing is added to a token. Holds no numbers of a checkpoint.

    Args:
        max_timestep: T, rows that the table would have. d_model: D.
    """

    def __init__(self, max_timestep: int, d_model: int):
        super().__init__()
        self.max_timestep = max_timestep
        self.register_buffer("weight", torch.zeros(1, d_model), persistent=False)

    def table(self) -> Tensor:
        """(T, D) zeros, for who reads a row per timestep."""
        return self.weight.new_zeros(self.max_timestep, self.weight.shape[1])

    def forward(self, timesteps: Tensor) -> Tensor:
        """Zeros (..., D) for timesteps (...)."""
        return self.weight[0].expand(*timesteps.shape, -1)


class SequenceModel(nn.Module):
    """Three tokens per step through a causal transformer.

    Subclasses name the order of the tokens and add heads. `forward` takes windows whose states are already
    standardised and whose returns are already scaled, as samplers give them; `normalize_states` does the
    former for raw states in a rollout.

    Args:
        config: architecture.
        state_mean, state_std: (S,) statistics of the training states; identity when absent.
        action_low, action_high: (A,) finite bounds of the actions; -1 and 1 when absent. Discrete actions
            have none.
        attention: backend of `ops.attention`, such as "sdpa"; None for the fastest. Weights do not depend on
        it; it is no part of a checkpoint and may be set at any time.
    """

    ORDER: ClassVar[tuple[str, str, str]]
    TAKES_DISCRETE: ClassVar[bool] = False  # whether it has a head for discrete actions

    def __init__(
        self,
        config: SequenceConfig,
        state_mean: Tensor | None = None,
        state_std: Tensor | None = None,
        action_low: Sequence[float] | None = None,
        action_high: Sequence[float] | None = None,
        attention: BlockBackend | None = None,
    ):
        super().__init__()
        self.config = config
        d = config.d_model
        self.normalizer = InputNormalizer(config.state_dim, state_mean, state_std)
        self.action_bounds = self._bounds(action_low, action_high)
        if config.timestep_embedding:
            self.embed_timestep = nn.Embedding(config.max_timestep, d)  # N(0, 1)
            self.embed_timestep.weight.detach().mul_(config.timestep_std)
        else:
            self.embed_timestep = NoTimesteps(config.max_timestep, d)
        self.embed_return = nn.Linear(1, d)
        self.embed_state = nn.Linear(config.state_dim, d)
        self.embed_action = nn.Linear(config.action_dim, d)
        self.embed_norm = nn.LayerNorm(d)
        self.transformer = Transformer(
            d, config.n_layer, config.n_head, config.dropout, config.norm, config.activation
        )
        self.attention = attention

    def _bounds(self, low: Sequence[float] | None, high: Sequence[float] | None) -> ActionBounds | None:
        """Those of continuous actions; None for discrete ones."""
        if not self.config.discrete:
            return ActionBounds(self.config.action_dim, low, high)
        if not self.TAKES_DISCRETE:
            raise ValueError(
                f"discrete: {type(self).__name__} has continuous actions alone; DecisionTransformer and "
                "Reinformer take discrete ones"
            )
        if low is not None or high is not None:
            raise ValueError("action_low, action_high: discrete actions have no bounds; leave them out")
        return None

    @property
    def padding(self) -> str:
        return self.config.padding

    @property
    def attention(self) -> BlockBackend | None:
        """How all blocks are computed, see `Block.backend`; None for the fastest."""
        return self.transformer.blocks[0].backend

    @attention.setter
    def attention(self, backend: BlockBackend | None) -> None:
        for block in self.transformer.blocks:
            block.backend = backend

    def explain(self, steps: int | None = None) -> str:
        """How windows of so many steps (None: K) are computed where the parameters are, and why.

        Returns:
            A line each for tokens, blocks and, where blocks are not one launch, attention.
        """
        like, block = self.embed_state.weight, self.transformer.blocks[0]
        size = len(self.ORDER) * (self.config.context_len if steps is None else steps) - 1
        tokens = like.new_empty(1, size, self.config.d_model)
        lines = ["tokens: {} ({})".format(*choose_embedding(self.embed_timestep.weight))]
        reason = block.why_not_fused(tokens)
        if reason is None:
            return "\n".join([*lines, "blocks: fused, one launch forward and one backward"])
        qkv = tokens[:, :, None, None].expand(-1, -1, 3, block.attention.n_head, -1)
        qkv = qkv[..., : self.config.d_model // block.attention.n_head]
        attention = choose_attention(qkv, block.attention.backend)
        return "\n".join(
            [*lines, f"blocks: operator by operator ({reason})", "attention: {} ({})".format(*attention)]
        )

    @property
    def predicts_returns(self) -> bool:
        """True when the return token follows the state token: the model predicts the return it acts on."""
        return self.ORDER.index("state") < self.ORDER.index("return")

    @property
    def takes_target_return(self) -> bool:
        """True when acting begins with a return to aim for, from which rewards are then subtracted."""
        return not self.predicts_returns

    def normalize_states(self, states: Tensor) -> Tensor:
        """Standardise raw states (..., S) with the statistics of the training data."""
        return self.normalizer(states)

    def embed(
        self, states: Tensor, actions: Tensor, returns_to_go: Tensor, timesteps: Tensor, omit: int = 1
    ) -> Tensor:
        """Tokens in order, (B, 3K - omit, D). The last of a window, an action, is seen by no output."""
        if not self.config.timestep_embedding:  # the table has one row
            timesteps = torch.zeros_like(timesteps)
        return embed_tokens(
            states,
            actions,
            returns_to_go,
            timesteps,
            state_weight=self.embed_state.weight,
            state_bias=self.embed_state.bias,
            action_weight=self.embed_action.weight,
            action_bias=self.embed_action.bias,
            return_weight=self.embed_return.weight,
            return_bias=self.embed_return.bias,
            timestep_table=self.embed_timestep.weight,
            norm_weight=self.embed_norm.weight,
            norm_bias=self.embed_norm.bias,
            order=self.ORDER,
            omit=omit,
            eps=self.embed_norm.eps,
        )

    def hidden(
        self,
        states: Tensor,
        actions: Tensor,
        returns_to_go: Tensor,
        timesteps: Tensor,
        mask: Tensor,
        wanted: tuple[str, ...],
        generator: Generator | None,
    ) -> Tensor:
        """Last hidden states of the tokens of the wanted (consecutive) kinds: (B, K, len(wanted), D)."""
        steps = mask.shape[1]
        tokens = self.embed(states, actions, returns_to_go, timesteps)
        if self.training and self.config.norm == "pre":  # GPT-2 drops out its inputs too
            tokens = dropout(tokens, self.config.dropout, generator)
        first = self.ORDER.index(wanted[0])
        slots = torch.arange(first, first + len(wanted), device=mask.device)
        rows = (3 * torch.arange(steps, device=mask.device)[:, None] + slots).flatten()
        out = self.transformer(tokens, self.padding_of(mask), rows, generator)
        return out.unflatten(1, (steps, len(wanted)))

    def window(
        self,
        states: Tensor,
        actions: Tensor,
        returns_to_go: Tensor,
        timesteps: Tensor,
        mask: Tensor,
        trim: bool,
    ) -> Window:
        """Prepare a window for `act`. On the CPU, `trim` cuts away columns that are padding in every row."""
        steps = mask.shape[1]
        lengths = mask.sum(dim=1)
        last = lengths - 1 if self.padding == "right" else torch.full_like(lengths, steps - 1)
        # On a GPU looking at the lengths would make the host wait for the device.
        if not trim or mask.device.type != "cpu":
            return Window(states, actions, returns_to_go, timesteps, mask, last, full=False)
        shortest, longest = (int(x) for x in torch.aminmax(lengths))
        if longest < steps:
            columns = slice(0, longest) if self.padding == "right" else slice(steps - longest, steps)
            states, actions, returns_to_go, timesteps, mask = (
                x[:, columns] for x in (states, actions, returns_to_go, timesteps, mask)
            )
            last = last - columns.start
        return Window(
            states, actions, returns_to_go, timesteps, mask, last, full=shortest == longest == mask.shape[1]
        )

    def padding_of(self, mask: Tensor) -> Padding:
        """Of the tokens of windows whose real steps are those in `mask` (B, K) bool.

        Raises:
            ValueError: real steps are not together on their side (looked at on a CPU alone, and not in a
            stack of seeds, whose windows come from a sampler).
        """
        if mask.device.type == "cpu" and not torch.compiler.is_compiling() and not is_batched(mask):
            check_sides(mask, self.padding)
        return Padding.of_steps(mask, self.padding, len(self.ORDER))

    def window_padding(self, window: Window) -> Padding:
        """Of the tokens of a window."""
        return Padding() if window.full else self.padding_of(window.mask)

    def bounded(self, unbounded: Tensor) -> Tensor:
        """tanh, then onto the action bounds."""
        return self.action_bounds(F.tanh(unbounded))

    def action_of(self, head: Tensor) -> Tensor:
        """The action that the action head's output (..., A) stands for.

        Inside the bounds; of discrete actions the one-hot row of the largest logit, the first on ties,
        without a gradient. A row with a logit that is not finite becomes NaN.
        """
        if not self.config.discrete:
            return self.bounded(head)
        logits = head.detach()
        largest = logits.argmax(dim=-1, keepdim=True)
        chosen = largest == torch.arange(logits.shape[-1], device=logits.device)
        return chosen.to(logits.dtype) + (logits - logits).sum(dim=-1, keepdim=True)


def check_sides(mask: Tensor, padding: str) -> None:
    """Refuse windows (B, K) whose padding is not on the side named, all of it."""
    inner, outer = mask[:, :-1], mask[:, 1:]
    if padding == "left":
        inner, outer = outer, inner
    if (outer & ~inner).any():
        raise ValueError(
            f"mask: expected the real steps of each row together, padding on the {padding}, got False "
            "between them or on the other side"
        )
