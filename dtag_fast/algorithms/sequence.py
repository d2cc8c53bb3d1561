"""Settings of sequence policies that are resolved from the data."""

from __future__ import annotations

from typing import Any

import numpy as np

from dtag_fast.algorithms.base import Algorithm, DataSpec
from dtag_fast.data import TrajectoryStore, WindowSampler
from dtag_fast.data.replay import ReplayBuffer


def transformed_returns(config, data: DataSpec) -> np.ndarray:
    """(E,) episode returns after r -> reward_scale * r + reward_shift."""
    return config.reward_scale * data.returns + config.reward_shift * data.lengths


def target_returns(config, data: DataSpec) -> list[float]:
    """The configured returns to ask for in evaluation, or the best of an episode when there are none."""
    return list(config.target_returns) or [float(transformed_returns(config, data).max())]


def resolve_return_scale(config, data: DataSpec) -> float:
    """The configured divisor of returns, or the largest |return| of an episode when there is none.

    Raises:
        ValueError: not positive, or every episode of the data has return 0.
    """
    configured = config.return_scale
    scale = np.abs(transformed_returns(config, data)).max() if configured is None else configured
    if not scale > 0:
        reason = "; every episode of the data has return 0: give it yourself" if configured is None else ""
        raise ValueError(f"return_scale: expected a positive number, got {scale}{reason}")
    return float(scale)


def check_lengths(max_timestep: int, data: DataSpec) -> None:
    """Every step of the data, and of an episode to act in, needs a row in the timestep embedding."""
    if data.horizon > max_timestep:
        raise ValueError(
            f"max_timestep: expected at least {data.horizon}, the most steps an episode has, "
            f"got {max_timestep}"
        )


def window_sampler(
    algorithm: Algorithm, store: TrajectoryStore, sampler: type[WindowSampler] = WindowSampler
) -> WindowSampler:
    """Windows of standardised states as `algorithm.config` asks for them."""
    c = algorithm.config
    return sampler(store, c.context_len, c.batch_size, **_window_settings(algorithm))


def replay_buffer(algorithm: Algorithm, capacity: int | None, **options) -> ReplayBuffer:
    """An empty buffer of such windows; `options` are those that a sampler of windows has not."""
    c, data = algorithm.config, algorithm.data
    sizes = {"state_dim": data.state_dim, "action_dim": data.action_dim}
    return ReplayBuffer(
        capacity, c.context_len, c.batch_size, **sizes, **_window_settings(algorithm), **options
    )


def _window_settings(algorithm: Algorithm) -> dict[str, Any]:
    c = algorithm.config
    return {
        "padding": c.padding,
        "weighting": c.weighting,
        "start": c.start,
        "return_scale": algorithm.return_scale,
        "reward_scale": c.reward_scale,
        "reward_shift": c.reward_shift,
        "state_mean": algorithm.data.state_mean,
        "state_std": algorithm.data.state_std,
        "device": algorithm.device,
    }
