"""The one-environment loops as they are usually written: the oracle of the tests and the peer of the
benchmark.

Slow on purpose: the history grows by concatenation, every step runs full forward passes over a padded
window (two for Reinformer: return, then action), and Action Gradient is a loop of autograd calls.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from dtag_fast.data import DiscreteActions, flatten_observation

Improve = Callable[[Tensor, Tensor], Tensor]  # raw state (1, S), action (1, A) -> action (1, A)


@dataclass
class Trace:
    """One episode, step by step: actions (A,) as executed (one-hot rows of discrete ones), rewards, and the
    scaled return token of each step."""

    actions: list[np.ndarray] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    returns_to_go: list[float] = field(default_factory=list)
    terminated: bool = False

    @property
    def episode_return(self) -> float:
        return float(sum(self.rewards))


@torch.no_grad()
def play_episode(
    model: nn.Module,
    env: gymnasium.Env,
    seed: int,
    target_return: float | None = None,
    improve: Improve | None = None,
    observation_keys: list[str] | None = None,
    max_steps: int | None = None,
    history_lengths: Sequence[int] | None = None,
    discrete: DiscreteActions | None = None,
) -> Trace:
    """Play one episode with a sequence policy.

    Args:
        model: in eval mode. env: will be reset with `seed`.
        target_return: in the environment's units, for models that need one.
        improve: turns the policy's action into the one to execute; None executes it as it is.
        observation_keys: entries of a Dict observation. max_steps: stop early.
        history_lengths: lengths of history to try at every step of a model that predicts returns; the one
            of the highest predicted return is acted on.
        discrete: the environment's actions where they are discrete.
    """
    k, scale = model.config.context_len, model.config.return_scale
    lengths = [k] if history_lengths is None else history_lengths
    states = torch.zeros(0, model.config.state_dim)
    actions = torch.zeros(0, model.config.action_dim)
    returns = torch.zeros(0, 1)
    wanted = 0.0 if target_return is None else target_return / scale
    trace, over = Trace(), False
    observation, _ = env.reset(seed=seed)
    while not over and (max_steps is None or len(trace.rewards) < max_steps):
        raw = torch.from_numpy(flatten_observation(observation, observation_keys))[None]  # (1, S)
        if not (model.takes_target_return or model.predicts_returns):
            wanted = model.prompts(raw).item()
        states = torch.cat([states, model.normalize_states(raw)])
        actions = torch.cat([actions, torch.zeros(1, model.config.action_dim)])
        returns = torch.cat([returns, torch.tensor([[wanted]], dtype=torch.float32)])
        if model.predicts_returns:
            found = []
            for k in lengths:
                window, last = _window(states, actions, returns, k, model.padding)
                found.append(model(*window).returns[0, last].item())
            k = lengths[found.index(max(found))]
            returns[-1] = max(found)
        window, last = _window(states, actions, returns, k, model.padding)
        action = model(*window).actions[:, last]  # (1, A)
        if improve is not None:
            action = improve(raw, action)
        actions[-1] = action[0]
        executed = action[0].numpy() if discrete is None else discrete.numbers(action[0].numpy())
        observation, reward, terminated, truncated, _ = env.step(executed)
        trace.actions.append(action[0].numpy().copy())
        trace.rewards.append(float(reward))
        trace.returns_to_go.append(float(returns[-1]))
        trace.terminated, over = terminated, terminated or truncated
        if target_return is not None:
            wanted = wanted - float(reward) / scale
    return trace


def autograd_action_gradient(critic: nn.Module, steps: int, lr: float, low: float, high: float) -> Improve:
    """Action Gradient as an autograd loop over the smallest of the critic's Q, best iterate returned."""

    def improve(state: Tensor, action: Tensor) -> Tensor:
        best, best_q = action, -float("inf")
        for i in range(steps + 1):
            with torch.enable_grad():
                variable = action.clone().requires_grad_()
                q = torch.cat(critic(state, variable), dim=-1).min(dim=-1).values
                (gradient,) = torch.autograd.grad(q.sum(), variable)
            if q.item() > best_q:
                best, best_q = action, q.item()
            if i < steps:
                action = (action + lr * gradient).clamp(low, high)
        return best

    return improve


def _window(states: Tensor, actions: Tensor, returns: Tensor, k: int, padding: str):
    """The last K steps padded to K with zeros, and the column of the last real one."""
    length = states.shape[0]
    real = min(length, k)
    timesteps = torch.arange(length - real, length)
    side = (k - real, 0) if padding == "left" else (0, k - real)

    def pad(x: Tensor) -> Tensor:
        return nn.functional.pad(x[-real:], (0, 0, *side))[None]  # (1, K, .)

    mask = nn.functional.pad(torch.ones(real, dtype=torch.bool), side)[None]
    window = (
        pad(states),
        pad(actions),
        pad(returns),
        nn.functional.pad(timesteps, side)[None],
        mask,
    )
    return window, k - 1 if padding == "left" else real - 1
