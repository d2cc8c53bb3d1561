"""A sequence policy acting in N environments at once, exactly as the published one-environment loops do.

Decision Transformer: R_{t+1} = R_t - r_t / return_scale from the target return, the last K steps are re-run
at every step, timesteps are absolute (Chen et al., 2021). Reinformer: the return it predicts at a step stays
in the history, nothing is subtracted (Zhuang et al., 2024). In both, the executed action enters the history:
with Action Gradient that is the refined one.
"""

import numpy as np
import torch
from torch import Tensor, nn

from dtag_fast.models import Decoder
from dtag_fast.rollout.history import History

# Matrix products treat the rows left over after their last full tile differently. Measured on one thread of
# an AMD EPYC (Zen 3, AVX2): batches of odd size may round differently, multiples of 8 all round alike.
ROW_MULTIPLE = 8


class SequencePolicy:
    """Acts for N rollouts that start and end on their own.

    Args:
        model: a DecisionTransformer or Reinformer; put into eval mode. The history lives on its device.
        num_envs: N >= 1.
        target_return: what to ask for, in units of the environment's return: one number or (N,). Needed by
            models that do not predict returns themselves, not taken by those that do.
        reward_scale, reward_shift: the returns were made of reward_scale * r + reward_shift in training.
        batch_invariant: make an action's bits independent of which other rollouts are active and of how old
            they are: windows are never shortened and batches are filled up to a multiple of `ROW_MULTIPLE`.
            Holds where matrix products of such sizes round every row alike, as on one CPU thread.
        incremental: compute at each step only what is new (`models.Decoder`), instead of the whole window.

    Raises:
        ValueError: a target return missing or not wanted.
    """

    def __init__(
        self,
        model: nn.Module,
        num_envs: int,
        target_return: float | np.ndarray | None = None,
        reward_scale: float = 1.0,
        reward_shift: float = 0.0,
        batch_invariant: bool = False,
        incremental: bool = True,
    ):
        config = model.config
        self.model, self.device = model.eval(), next(model.parameters()).device
        self.num_envs, self.batch_invariant = num_envs, batch_invariant
        self.reward_scale, self.reward_shift = reward_scale, reward_shift
        self.predicts_returns = model.predicts_returns
        self.history = History(
            num_envs, config.context_len, config.state_dim, config.action_dim, model.padding, self.device
        )
        self.decoder = Decoder(model, num_envs) if incremental else None
        # Kept in float64 so that a thousand subtractions do not drift; the model sees float32.
        self._returns_to_go = np.zeros(num_envs)  # (N,), divided by return_scale
        self.reset(np.ones(num_envs, bool), target_return)

    def reset(self, which: np.ndarray, target_return: float | np.ndarray | None = None) -> None:
        """Start new episodes.

        Args:
            which: (N,) bool, rollouts to restart.
            target_return: one number or one for each restarted rollout; None for models that predict returns.
        """
        rows = np.flatnonzero(which)
        self.history.reset(rows)
        if self.decoder is not None:
            self.decoder.reset(torch.from_numpy(rows).to(self.device))
        self._check_target(target_return)
        if target_return is not None:
            self._returns_to_go[rows] = np.asarray(target_return, np.float64) / self.model.config.return_scale

    @torch.inference_mode()
    def act(self, observations: np.ndarray, active: np.ndarray) -> np.ndarray:
        """Actions of the active rollouts for what they see now.

        Args:
            observations: (N, S) raw states; rows of inactive rollouts are not read.
            active: (N,) bool.

        Returns:
            (N, A) float32, zeros for inactive rollouts. Follow it with `record`.

        Raises:
            ValueError: a rollout longer than the model's timestep table, or an action that is not finite.
        """
        rows = np.flatnonzero(active)
        actions = np.zeros((self.num_envs, self.model.config.action_dim), np.float32)
        if rows.size == 0:
            return actions
        if self.history.lengths[rows].max() >= self.model.config.max_timestep:
            raise ValueError(
                f"max_timestep: the policy knows {self.model.config.max_timestep} timesteps and the episode "
                "is longer; train it with a larger max_timestep or limit the episode"
            )
        states = self.model.normalize_states(self._tensor(observations[rows]))
        returns = self._tensor(self._returns_to_go[rows])
        if self.decoder is None:
            self.history.begin(rows, states, returns)
            batch = self._batch(rows)
            chosen, predicted = self.model.act(*self.history.window(batch), trim=not self.batch_invariant)
            self._keep(rows, chosen, predicted, actions)
        else:
            self._decode(rows, states, returns, actions)
        if not np.isfinite(actions).all():
            raise ValueError(
                "policy: it gave an action that is not finite; its parameters or the observations hold NaN"
            )
        return actions

    def _decode(self, rows: np.ndarray, states: Tensor, returns: Tensor, actions: np.ndarray) -> None:
        """Act by the decoder: rollouts whose window is not full yet, then those whose window slides."""
        if self.decoder.stale():
            self.decoder.refill(*self.history.steps())
        previous = self.history.previous_actions(rows)
        self.history.begin(rows, states, returns)
        timesteps = self.history.lengths[rows] - 1
        sliding = timesteps >= self.history.context_len
        for group, slides in ((np.flatnonzero(~sliding), False), (np.flatnonzero(sliding), True)):
            if group.size == 0:
                continue
            batch = self._batch(group)
            at = torch.from_numpy(batch).to(self.device)
            everyone = batch.size == self.num_envs and (rows[batch] == np.arange(self.num_envs)).all()
            arguments = (
                None if everyone else torch.from_numpy(rows[batch]).to(self.device),
                torch.from_numpy(timesteps[batch]).to(self.device),
                previous[at],
                states[at],
                None if self.predicts_returns else returns[at, None],
            )
            if slides:
                chosen, predicted = self.decoder.slide(*arguments, all_full=True)
            else:
                chosen, predicted = self.decoder.decode(*arguments)
            self._keep(rows[group], chosen, predicted, actions)

    def _batch(self, rows: np.ndarray) -> np.ndarray:
        return fill_up(rows) if self.batch_invariant else rows

    def _keep(self, rows: np.ndarray, chosen: Tensor, predicted: Tensor | None, actions: np.ndarray) -> None:
        """Take the actions and predicted returns of `rows` out of a batch that may have been filled up."""
        if predicted is not None:
            self.history.set_returns(rows, predicted[: rows.size])
        actions[rows] = chosen[: rows.size].float().cpu().numpy()

    @torch.inference_mode()
    def record(self, executed_actions: np.ndarray, rewards: np.ndarray, active: np.ndarray) -> None:
        """Enter what was executed and what it earned.

        Args:
            executed_actions: (N, A), the actions given to the environments, refined or not.
            rewards: (N,) of that step, in the environment's units.
            active: (N,) bool, the same as in `act`.
        """
        rows = np.flatnonzero(active)
        self.history.set_actions(rows, self._tensor(executed_actions[rows]))
        if not self.predicts_returns:
            scaled = rewards[rows] * self.reward_scale + self.reward_shift
            self._returns_to_go[rows] -= scaled / self.model.config.return_scale

    def _check_target(self, target_return: float | np.ndarray | None) -> None:
        name = type(self.model).__name__
        if self.predicts_returns and target_return is not None:
            raise ValueError(
                f"target_return: {name} predicts the returns it acts on, got {target_return}; leave it out"
            )
        if not self.predicts_returns and (target_return is None or not np.isfinite(target_return).all()):
            raise ValueError(f"target_return: {name} needs a finite return to aim for, got {target_return}")

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.asarray(array, np.float32)).to(self.device)


def fill_up(rows: np.ndarray) -> np.ndarray:
    """`rows` (R,), its first entry repeated at the end until there is a multiple of ROW_MULTIPLE."""
    return np.concatenate([rows, np.repeat(rows[:1], -len(rows) % ROW_MULTIPLE)])
