"""Acting with one of several candidates: actions for different returns-to-go, chosen by a critic.

The inference of the Q-regularised Transformer (Hu et al. 2024, arXiv 2405.17098). At step t the policy acts
on M returns in the place of the newest one, scaled as its tokens are,

    R_t,  R_t + noise z_2,  ...,  R_t + noise z_{M-1},  (Q(s_{t-1}, a_{t-1}) - r_{t-1}) / return_scale

with z standard normal (at t = 0 the last is one of these too), and executes the action i with probability
softmax_i(min Q(s_t, a_i)), or the best. History keeps R_t, whichever is chosen.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from dtag_fast.models import DecisionTransformer
from dtag_fast.models.candidates import actions_for_returns
from dtag_fast.rollout.batches import Step, fill_up
from dtag_fast.rollout.history import Window
from dtag_fast.rollout.refinement import Refinement
from dtag_fast.rollout.settings import AGSetting, expect_whole
from dtag_fast.rollout.transfers import Transfers
from dtag_fast.training.checkpoint import LoadedCritic

Choice = Literal["softmax", "argmax"]


@dataclass(frozen=True)
class Candidates:
    """How candidates are made and chosen. Defaults: the published evaluation.

    Args:
        count: M >= 1, the plain policy's action among them; 1 is the plain policy.
        noise: deviation of the normal noise on scaled returns-to-go, >= 0.
        choice: "softmax" draws by the softmax of Q, whose temperature is one unit of the critic; "argmax"
            takes the largest, the plain policy's action on ties.

    Raises:
        ValueError: naming the argument.
    """

    count: int = 50
    noise: float = 0.1
    choice: Choice = "softmax"

    def __post_init__(self) -> None:
        expect_whole("candidates", self.count, 1)
        if isinstance(self.noise, bool) or not isinstance(self.noise, int | float):
            raise ValueError(f"noise: expected a number, got {self.noise!r}")
        if not 0 <= self.noise < math.inf:
            raise ValueError(f"noise: expected a finite number of at least 0, got {self.noise}")
        if self.choice not in get_args(Choice):
            raise ValueError(f"choice: expected one of {', '.join(get_args(Choice))}, got {self.choice!r}")


class CandidateActions:
    """The candidates of N rollouts, what they remember of the step before, and their draws.

    A rollout draws from a generator of its own, as many numbers at every step, so that its candidates do not
    depend on the others.

    Args:
        setting: see `Candidates`.
        model: a policy that takes a target return. critic: of the same states and actions.
        num_envs: N. reward_scale, reward_shift, batch_invariant: as for `SequencePolicy`.

    Raises:
        ValueError: no critic, a policy that takes no target return, or rewards of the critic that are no
            multiple of those in the policy's returns.
    """

    def __init__(
        self,
        setting: Candidates,
        model: DecisionTransformer,
        critic: LoadedCritic | None,
        num_envs: int,
        reward_scale: float = 1.0,
        reward_shift: float = 0.0,
        batch_invariant: bool = False,
    ):
        check_candidates(setting, model, critic, reward_scale, reward_shift)
        self.setting, self.model, self.batch_invariant = setting, model, batch_invariant
        self.device = next(model.parameters()).device
        self._unit = reward_scale / critic.info.reward_scale  # the policy's rewards over the critic's
        bounds = model.action_bounds
        low, high = (bounds.centre - bounds.half_range, bounds.centre + bounds.half_range)
        self._critic = Refinement(
            critic.critic.to(self.device),
            (low.cpu().numpy(), high.cpu().numpy()),
            [AGSetting()],
            self.device,
            batch_invariant,
        )
        self.use(Transfers(self.device))
        self._generators = [draws(row) for row in range(num_envs)]
        self._states = np.zeros((num_envs, model.config.state_dim), np.float32)  # of the step before
        self._rewards = np.zeros(num_envs)  # of the step before, as they enter returns

    def use(self, transfers: Transfers) -> None:
        """Copy to the device and back by `transfers`."""
        self.transfers = self._critic.transfers = transfers

    def reset(self, rows: np.ndarray, seeds: int | np.ndarray) -> None:
        """Start the draws of `rows` (R,) anew, from one seed or one for each."""
        for row, seed in zip(rows, np.broadcast_to(seeds, rows.shape), strict=True):
            self._generators[row] = draws(int(seed))

    def record(self, rows: np.ndarray, rewards: np.ndarray) -> None:
        """Remember rewards (R,) as they enter returns."""
        self._rewards[rows] = rewards

    def choose(self, step: Step, window: Window, plain: np.ndarray) -> np.ndarray:
        """The actions (R, A) to take.

        Args:
            step: of R rollouts. window: their history, this step included.
            plain: (R, A), the policy's actions for the step's returns-to-go.

        Raises:
            ValueError: a Q that is not finite.
        """
        rows, count = step.rows, self.setting.count
        if count == 1 or rows.size == 0:
            return plain
        returns, uniforms = self._returns(step)
        found = self._actions(window, returns.astype(np.float32))
        actions = np.concatenate((plain[:, None], found), axis=1)  # (R, M, A)
        q = self._q(np.repeat(step.states, count, axis=0), actions.reshape(-1, plain.shape[1]))
        q = q.reshape(len(rows), count)
        chosen = q.argmax(axis=1) if self.setting.choice == "argmax" else pick(q, uniforms)
        return actions[np.arange(len(rows)), chosen]

    def _returns(self, step: Step) -> tuple[np.ndarray, np.ndarray]:
        """Scaled returns of the candidates after the first, (R, M - 1), and uniform numbers (R,)."""
        rows = step.rows
        generators = [self._generators[row] for row in rows]
        noise = np.array([g.standard_normal(self.setting.count - 1) for g in generators])
        uniforms = np.array([g.random() for g in generators])
        returns = step.returns_to_go + self.setting.noise * noise
        later = np.flatnonzero(step.timesteps > 0)
        if later.size:
            q = self._q(self._states[rows[later]], step.previous_actions[later])
            left = self._unit * q - self._rewards[rows[later]]
            returns[later, -1] = left / self.model.config.return_scale
        self._states[rows] = step.states
        return returns, uniforms

    def _actions(self, window: Window, returns: np.ndarray) -> np.ndarray:
        """Actions (R, M - 1, A) for scaled returns (R, M - 1)."""
        count = len(returns)
        batch = fill_up(np.arange(count)) if self.batch_invariant else np.arange(count)
        states, *others, returns = (self.transfers.to_device(part[batch]) for part in (*window, returns))
        states = self.model.normalize_states(states)
        found = actions_for_returns(self.model, states, *others, returns, trim=not self.batch_invariant)
        return self.transfers.to_host(found[:count].float())

    def _q(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """The smallest Q of the critic's members, (R,) float64."""
        q = self._critic(states, actions, np.zeros(len(states), np.int64)).q_0.astype(np.float64)
        if not np.isfinite(q).all():
            raise ValueError(
                "critic: it gave a Q that is not finite; its training diverged, or the observations hold NaN"
            )
        return q


def pick(q: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """Positions (R,) with probabilities softmax(q) for q (R, M), by uniform numbers (R,) in [0, 1)."""
    heights = np.cumsum(np.exp(q - q.max(axis=1, keepdims=True)), axis=1)  # (R, M)
    return (heights[:, :-1] <= uniforms[:, None] * heights[:, -1:]).sum(axis=1)


def draws(seed: int) -> np.random.Generator:
    """The generator of an episode's candidates; apart from all else that the seed is used for."""
    return np.random.default_rng([seed, *b"candidates"])


def check_candidates(
    setting: Candidates, model, critic: LoadedCritic | None, reward_scale: float, reward_shift: float
) -> None:
    """Refuse what candidates cannot be made or chosen with; arguments as for `CandidateActions`."""
    if not model.takes_target_return:
        raise ValueError(
            f"candidates: they differ in the return asked for, and {type(model).__name__} takes none; leave "
            "them out"
        )
    if critic is None:
        raise ValueError(
            f"critic: {setting.count} candidates need one to be chosen by, got None; give a run that trained "
            "one, or leave candidates out"
        )
    theirs = critic.info.reward_scale, critic.info.reward_shift
    if not math.isclose(reward_shift * theirs[0], theirs[1] * reward_scale):
        raise ValueError(
            "candidates: expected a critic of the policy's rewards or a multiple of them, "
            f"{reward_scale:g} r + {reward_shift:g}, got one of {theirs[0]:g} r + {theirs[1]:g}; train both "
            "with the same shift"
        )
