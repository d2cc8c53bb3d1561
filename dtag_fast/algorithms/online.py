"""What Online Decision Transformer shares with its actor-critic relatives: settings, model, replay buffer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from dtag_fast.algorithms.policies import SequenceAlgorithm
from dtag_fast.algorithms.sequence import replay_buffer
from dtag_fast.data.replay import ReplayBuffer
from dtag_fast.models import OnlineDecisionTransformer, OnlineDecisionTransformerConfig
from dtag_fast.models.transformer import BlockBackend


@dataclass(frozen=True)
class OnlineSettings:
    """Model, windows and LAMB; defaults of ODT's published code."""

    context_len: int = 20  # K, steps of a training window
    eval_context_len: int = 5  # steps the policy looks back when it acts, at most context_len
    d_model: int = 512  # width of a token
    n_layer: int = 4
    n_head: int = 4
    dropout: float = 0.1
    max_timestep: int = 4096  # longest episode; no table has so many rows unless timestep_embedding
    timestep_embedding: bool = False  # add a learned embedding of the timestep to every token
    norm: Literal["post", "pre"] = "pre"  # LayerNorm after or before attention and MLP
    activation: Literal["gelu", "relu"] = "relu"
    padding: Literal["left", "right"] = "left"  # side on which short windows are filled up
    weighting: Literal["uniform", "length"] = "length"  # probability of an episode
    start: Literal["inside", "anywhere"] = "anywhere"  # first step of a window, see WindowSampler
    reward_scale: float = 1.0  # rewards become reward_scale * r + reward_shift before they are summed
    reward_shift: float = 0.0
    return_scale: float | None = (
        None  # divides returns-to-go; None: largest |return| of an episode in the data
    )
    target_returns: tuple[float, ...] = ()  # to ask for in evaluation; empty: best return in the data
    batch_size: int = 256  # windows
    lr: float = 1e-4  # LAMB
    weight_decay: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    warmup: int = 10_000  # steps of the policy with a linear warm-up
    attention: BlockBackend | None = None  # None: kernels on a GPU, PyTorch's operators elsewhere
    max_grad_norm: float = 0.25  # clip of the trainer; LAMB clips at 1.0 by itself

    def __post_init__(self) -> None:
        if not 1 <= self.eval_context_len <= self.context_len:
            raise ValueError(
                f"eval_context_len: expected 1 to context_len = {self.context_len}, windows as long as some "
                f"in training, got {self.eval_context_len}"
            )


class OnlineSequenceAlgorithm(SequenceAlgorithm):
    """A policy that can go on learning from what it collects. Its config is an `OnlineSettings`.

    Attributes:
        exploration: how it acts while it collects: with actions drawn from its policy ("sample"), or with
            noise on its mean action ("noise").
    """

    exploration: ClassVar[Literal["sample", "noise"]]

    def _online_model(self) -> OnlineDecisionTransformer:
        return self._sequence_model(
            OnlineDecisionTransformer,
            OnlineDecisionTransformerConfig,
            context_len=self.config.eval_context_len,  # no weight depends on it: it is what acting looks at
        )

    def make_replay(self, capacity: int | None) -> ReplayBuffer:
        """An empty buffer of at most `capacity` episodes, or any number (None), that gives what `update`
        takes."""
        return replay_buffer(self, capacity)
