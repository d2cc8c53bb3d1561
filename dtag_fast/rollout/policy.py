"""A sequence policy acting in N environments at once, exactly as the published one-environment loops do.

Decision Transformer: R_{t+1} = R_t - r_t / return_scale from the target return, the last K steps are re-run
at every step, timesteps are absolute (Chen et al., 2021). Reinformer: the return it predicts at a step stays
in the history, nothing is subtracted (Zhuang et al., 2024). Autotuned Decision Transformer: the return of a
step is V of its state. In all, the executed action enters the history: with Action Gradient that is the
refined one.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from dtag_fast.models.decoder import Decoder, Precision
from dtag_fast.rollout.batches import Step, fill_up
from dtag_fast.rollout.candidates import CandidateActions, Candidates
from dtag_fast.rollout.history import History
from dtag_fast.rollout.transfers import Transfers
from dtag_fast.training.checkpoint import LoadedCritic


class SequencePolicy:
    """Acts for N rollouts that start and end on their own.

    Args:
        model: a SequenceModel; put into eval mode.
        num_envs: N >= 1.
        target_return: what to ask for, in units of the environment's return: one number or (N,). Needed by
            models that do not predict returns themselves, not taken by those that do.
        reward_scale, reward_shift: the returns were made of reward_scale * r + reward_shift in training.
        batch_invariant: make an action's bits independent of which other rollouts are active and of how old
            they are: windows are never shortened and batches are filled up to a multiple of `ROW_MULTIPLE`.
            Holds where matrix products of such sizes round every row alike, as on one CPU thread.
        incremental: compute at each step only what is new (`models.Decoder`), instead of the whole window.
        history_lengths: numbers of steps to look back, 1 to K: each step tries all of them and acts with the
            one whose predicted return is highest, the earliest in the list on ties. The elastic history of
            Wu et al. 2023 (arXiv 2307.02484), for models that predict returns; a forward pass for each
            length, over whole windows. None: K.
        candidates: act with one of several candidates, for models that take a target return; see
            `rollout.candidates`. None: with the policy's action.
        critic: that candidates are chosen by.
        precision: of the steps, see `models.Decoder`.

    Attributes:
        step: what the last `act` acted on; None before the first.

    Raises:
        ValueError: a target return missing or not wanted, a history length that cannot be, candidates that
            cannot be made or chosen, or bf16 where steps are not those of the compiled module.
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
        history_lengths: Sequence[int] | None = None,
        candidates: Candidates | None = None,
        critic: LoadedCritic | None = None,
        precision: Precision = "fp32",
    ):
        config = model.config
        if history_lengths is not None:
            check_history_lengths(history_lengths, model)
            incremental = False
        if precision != "fp32" and not (incremental and candidates is None):
            raise ValueError(
                f"precision: {precision} is for incremental steps alone; history lengths and candidates take "
                "whole windows, in float32: leave one of them out"
            )
        self.history_lengths = history_lengths
        self.step: Step | None = None
        self.model, self.device = model.eval(), next(model.parameters()).device
        self.transfers = Transfers(self.device)
        self.num_envs, self.batch_invariant = num_envs, batch_invariant
        self.reward_scale, self.reward_shift = reward_scale, reward_shift
        self.history = History(
            num_envs, config.context_len, config.state_dim, config.action_dim, model.padding
        )
        # neither asked for nor predicted by the transformer: V of the state
        self._prompted = not (model.takes_target_return or model.predicts_returns)
        self.decoder = Decoder(model, num_envs, precision) if incremental else None
        # Kept in float64 so that a thousand subtractions do not drift; the model sees float32.
        self._returns_to_go = np.zeros(num_envs)  # (N,), divided by return_scale
        self.candidates: CandidateActions | None = None
        if candidates is not None:
            self.candidates = CandidateActions(
                candidates, model, critic, num_envs, reward_scale, reward_shift, batch_invariant
            )
        self.reset(np.ones(num_envs, bool), target_return)

    def reset(
        self,
        which: np.ndarray,
        target_return: float | np.ndarray | None = None,
        seed: int | np.ndarray | None = None,
    ) -> None:
        """Start new episodes.

        Args:
            which: (N,) bool, rollouts to restart.
            target_return: one number or one for each restarted rollout; None for models that predict returns.
            seed: of the candidates that are drawn, likewise; None goes on with the draws of before, which
                rollout n begins with the seed n. Without candidates nothing is drawn.
        """
        rows = np.flatnonzero(which)
        self.history.reset(rows)
        if self.candidates is not None and seed is not None:
            self.candidates.reset(rows, seed)
        if self.decoder is not None:
            self.decoder.reset(self._tensor(rows))
        self._check_target(target_return)
        if target_return is not None:
            self._returns_to_go[rows] = np.asarray(target_return, np.float64) / self.model.config.return_scale

    def use(self, transfers: Transfers) -> None:
        """Copy to the device and back by `transfers`, which may time it."""
        self.transfers = transfers
        if self.candidates is not None:
            self.candidates.use(transfers)

    @torch.inference_mode()
    def act(self, observations: np.ndarray, active: np.ndarray) -> np.ndarray:
        """Actions of the active rollouts for what they see now.

        Args:
            observations: (N, S) raw states; rows of inactive rollouts are not read.
            active: (N,) bool.

        Returns:
            (N, A) float32, zeros for inactive rollouts; one-hot rows where actions are discrete. Follow it
            with `record`.

        Raises:
            ValueError: a rollout longer than the model's timestep table, or an action that is not finite.
        """
        step = self.begin(observations, active)
        actions = np.zeros((len(step.rows), self.model.config.action_dim), np.float32)
        returns = np.zeros((len(step.rows), 1), np.float32)
        if self.decoder is not None:
            self.update_decoder(self.decoder)
        compiled = self.decoder is not None and self.decoder.compiled  # any age together, rows independent
        if self.decoder is None or compiled:
            groups = [np.arange(len(step.rows))]
        else:  # rollouts whose window is not full yet apart from those whose window slides
            sliding = step.timesteps >= self.history.context_len
            groups = [np.flatnonzero(~sliding), np.flatnonzero(sliding)]
        for group in filter(len, groups):
            batch = fill_up(group) if self.batch_invariant and not compiled else group
            chosen, predicted = self._compute(Step(*(part[batch] for part in step)))
            actions[group] = self.transfers.to_host(chosen[: len(group)].float())
            if predicted is not None:
                returns[group] = self.transfers.to_host(predicted[: len(group)].float())
        if self.candidates is not None:
            check_finite(actions)
            actions = self.candidates.choose(step, self.history.window(step.rows), actions)
        return self.finish(step, actions, returns)

    def begin(self, observations: np.ndarray, active: np.ndarray) -> Step:
        """Enter what the active rollouts see; arguments and errors as for `act`."""
        rows = np.flatnonzero(active)
        if rows.size and self.history.lengths[rows].max() >= self.model.config.max_timestep:
            raise ValueError(
                f"max_timestep: the policy knows {self.model.config.max_timestep} timesteps and the episode "
                "is longer; train it with a larger max_timestep or limit the episode"
            )
        previous = self.history.previous_actions(rows)
        states = np.asarray(observations[rows], np.float32)
        returns = self._prompts(states) if self._prompted else self._returns_to_go[rows]
        self.history.begin(rows, states, returns)
        self.step = Step(
            rows, self.history.lengths[rows] - 1, previous, states, returns[:, None].astype(np.float32)
        )
        return self.step

    def finish(self, step: Step, actions: np.ndarray, returns: np.ndarray) -> np.ndarray:
        """Enter what was predicted for a step, actions (R, A) and returns (R, 1); returns what `act` does."""
        check_finite(actions)
        if self.model.predicts_returns:
            self.history.set_returns(step.rows, returns)
        everywhere = np.zeros((self.num_envs, actions.shape[1]), np.float32)
        everywhere[step.rows] = actions
        return everywhere

    @property
    def precision(self) -> str:
        """Of the products: "fp32", "bf16", or what PyTorch's operators make of float32."""
        if self.decoder is not None and self.decoder.compiled:
            return self.decoder.precision
        return pytorch_precision()

    def update_decoder(self, decoder: Decoder) -> None:
        """Fill the rings of a decoder over these rollouts anew if the model was trained since; for after
        `begin`."""
        if decoder.stale():
            states, *others = map(self._tensor, self.history.steps())
            decoder.refill(self.model.normalize_states(states), *others)

    def record(self, executed_actions: np.ndarray, rewards: np.ndarray, active: np.ndarray) -> None:
        """Enter what was executed and what it earned.

        Args:
            executed_actions: (N, A), the actions given to the environments, refined or not; one-hot rows
                where they are discrete (`DiscreteActions.numbers` makes of them what an environment takes).
            rewards: (N,) of that step, in the environment's units.
            active: (N,) bool, the same as in `act`.

        Raises:
            ValueError: actions of another shape.
        """
        expected = (self.num_envs, self.model.config.action_dim)
        if np.shape(executed_actions) != expected:
            got = np.shape(executed_actions)
            raise ValueError(f"executed_actions: expected {expected}, as `act` gives them, got {got}")
        rows = np.flatnonzero(active)
        self.history.set_actions(rows, executed_actions[rows])
        if self.model.takes_target_return:
            scaled = rewards[rows] * self.reward_scale + self.reward_shift
            self._returns_to_go[rows] -= scaled / self.model.config.return_scale
            if self.candidates is not None:
                self.candidates.record(rows, scaled)

    def _prompts(self, states: np.ndarray) -> np.ndarray:
        """Return tokens (R,) that the model's value function gives raw states (R, S)."""
        count = len(states)
        batch = fill_up(np.arange(count)) if self.batch_invariant else np.arange(count)
        return self.transfers.to_host(self.model.prompts(self._tensor(states[batch]))[:count, 0].float())

    def _compute(self, step: Step) -> tuple[Tensor, Tensor | None]:
        """Actions and predicted returns of rollouts that are all of one kind."""
        if self.history_lengths is not None:
            tried = [self._act_on_window(step.rows, length) for length in self.history_lengths]
            actions, predicted = (torch.stack(parts, dim=1) for parts in zip(*tried, strict=True))
            best = predicted[..., 0].argmax(dim=1)  # (R,)
            everyone = torch.arange(len(best), device=best.device)
            return actions[everyone, best], predicted[everyone, best]
        if self.decoder is None:
            return self._act_on_window(step.rows)
        return self.decoded(self.decoder, step)

    def decoded(self, decoder: Decoder, step: Step) -> tuple[Tensor, Tensor | None]:
        """What a decoder over these rollouts gives for a step of rollouts that are all of one kind."""
        everyone = np.array_equal(step.rows, np.arange(self.num_envs))
        arguments = (
            None if everyone else self._tensor(step.rows),
            self._tensor(step.timesteps),
            self._tensor(step.previous_actions),
            self.model.normalize_states(self._tensor(step.states)),
            None if self.model.predicts_returns else self._tensor(step.returns_to_go),
        )
        if decoder.compiled:
            return decoder.act(*arguments)
        if step.timesteps[0] < self.history.context_len:
            return decoder.decode(*arguments)
        return decoder.slide(*arguments, all_full=True)

    def _act_on_window(self, rows: np.ndarray, steps: int | None = None) -> tuple[Tensor, Tensor | None]:
        states, *others = map(self._tensor, self.history.window(rows, steps))
        states = self.model.normalize_states(states)
        return self.model.act(states, *others, trim=not self.batch_invariant)

    def _check_target(self, target_return: float | np.ndarray | None) -> None:
        name, takes = type(self.model).__name__, self.model.takes_target_return
        if not takes and target_return is not None:
            raise ValueError(
                f"target_return: {name} predicts the returns it acts on, got {target_return}; leave it out"
            )
        if takes and (target_return is None or not np.isfinite(target_return).all()):
            raise ValueError(f"target_return: {name} needs a finite return to aim for, got {target_return}")

    def _tensor(self, array: np.ndarray) -> Tensor:
        return self.transfers.to_device(array)


def check_history_lengths(lengths: Sequence[int], model: nn.Module) -> None:
    """Refuse lengths that a model cannot look back, or cannot choose among."""
    if not model.predicts_returns:
        raise ValueError(
            f"history_lengths: {type(model).__name__} predicts no return to choose by; leave them out, or "
            "take a reinformer or an edt"
        )
    k = model.config.context_len
    if not lengths or not all(isinstance(n, int | np.integer) and 1 <= n <= k for n in lengths):
        raise ValueError(
            f"history_lengths: expected whole numbers from 1 to context_len = {k}, got {lengths}"
        )


def pytorch_precision() -> str:
    """Of PyTorch's products of float32 numbers."""
    setting = torch.get_float32_matmul_precision()
    return "fp32" if setting == "highest" else f'float32 at precision "{setting}"'


def check_finite(actions: np.ndarray) -> None:
    """Refuse actions with a number that is not finite."""
    if not np.isfinite(actions).all():
        raise ValueError(
            "policy: it gave an action that is not finite; its parameters or the observations hold NaN"
        )
