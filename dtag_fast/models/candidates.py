"""Actions for several returns-to-go in the place of the newest one, over a history that is gone over once."""

from __future__ import annotations

import torch
from torch import Tensor

from dtag_fast.models.decision_transformer import DecisionTransformer
from dtag_fast.models.past import Kept
from dtag_fast.ops.attention import Mask, Padding


@torch.inference_mode()
def actions_for_returns(
    model: DecisionTransformer,
    states: Tensor,
    actions: Tensor,
    returns_to_go: Tensor,
    timesteps: Tensor,
    mask: Tensor,
    candidates: Tensor,
    trim: bool = True,
) -> Tensor:
    """What `model.act` gives for each of M returns at the last real step, equal within rounding.

    The keys and values of the earlier steps are computed once for a window; M pairs of new tokens, a return
    and the state, look at them and at themselves.

    Args:
        model: of the token order (return, state, action), in eval mode.
        states, actions, returns_to_go, timesteps, mask, trim: as for `model.act`; the return of the last real
            step and its action are ignored.
        candidates: (B, M) scaled returns-to-go.
    Returns:
        (B, M, A).
    Raises:
        ValueError: the model's attention is set to a backend that takes no mask of its own.
    """
    window = model.window(states, actions, returns_to_go, timesteps, mask, trim)
    tokens = model.embed(*window[:4])  # (B, S, D)
    size, newest, pairs = tokens.shape[1], 3 * window.last[:, None], candidates.shape[1]
    kept: list[Tensor] = []
    model.transformer(tokens, model.window_padding(window), newest, keep=kept)

    places = torch.arange(size + 2 * pairs, device=tokens.device)
    earlier = window.mask.repeat_interleave(3, dim=1)[:, :size] & (places[:size] < newest)  # (B, S)
    new = _pairs(model, window, candidates)  # (B, 2M, D)
    state_tokens = torch.arange(1, 2 * pairs, 2, device=tokens.device)
    past = Kept(kept, places[size:], append=True)
    hidden = model.transformer.extend(new, past, SideBySide(earlier, pairs), state_tokens)
    return model.bounded(model.action_head(hidden))


def _pairs(model: DecisionTransformer, window, candidates: Tensor) -> Tensor:
    """Tokens (R_1, s, R_2, s, ...) of the last real step, (B, 2M, D)."""
    last = window.last[:, None]
    state = model.embed_state(window.states.take_along_dim(last[..., None], dim=1))  # (B, 1, D)
    returns = model.embed_return(candidates[..., None])  # (B, M, D)
    now = model.embed_timestep(window.timesteps.gather(1, last))  # (B, 1, D)
    pairs = torch.stack((returns, state.expand_as(returns)), dim=2) + now[:, :, None]
    return model.embed_norm(pairs).flatten(1, 2)


class SideBySide(Padding):
    """For PyTorch's attention: behind S kept tokens stand M pairs that see `earlier` and their own pair.

    Args:
        earlier: (B, S) bool, the kept tokens that all pairs see. pairs: M.
    """

    by_mask_alone = True

    def __init__(self, earlier: Tensor, pairs: int):
        super().__init__()
        size = earlier.shape[1]
        place = torch.arange(2 * pairs, device=earlier.device)
        own = (place[:, None] // 2 == place // 2) & (place <= place[:, None])  # (2M, 2M)
        seen = torch.cat((earlier[:, None].expand(-1, 2 * pairs, -1), own.expand(len(earlier), -1, -1)), -1)
        self._size, self._seen = size, seen  # (B, 2M, S + 2M)
        self._whole: Mask | None = None  # of all queries, shared by the blocks

    def mask(self, tokens: int, queries: Tensor | None, like: Tensor) -> Mask:
        if queries.shape[-1] < self._seen.shape[1]:
            return self._of(self._seen.index_select(1, queries - self._size), like)
        if self._whole is None:
            self._whole = self._of(self._seen, like)
        return self._whole

    @staticmethod
    def _of(seen: Tensor, like: Tensor) -> Mask:
        bias = torch.zeros(seen.shape, dtype=like.dtype, device=like.device)
        return Mask(bias.masked_fill_(~seen, -torch.inf)[:, None], None)
