"""What an environment earned last, for policies that are not told it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import RecordConstructorArgs


class RecordRewards(gymnasium.Wrapper, RecordConstructorArgs):
    """An environment that remembers the reward of its last step.

    Attributes:
        recorded: (steps since the last reset, reward of the last one); (0, 0.0) after a reset.
    """

    def __init__(self, env: gymnasium.Env):
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self.recorded = (0, 0.0)

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        result = super().reset(**options)
        self.recorded = (0, 0.0)
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        result = super().step(action)
        self.recorded = (self.recorded[0] + 1, float(result[1]))
        return result


class Earnings:
    """Rewards of the last steps of N environments, from where they are known.

    Args:
        source: an environment, or a vector of them of Stable-Baselines3 or Gymnasium, in each of which there
            is a `RecordRewards`; or a callable that gives the rewards (N,) of the last step.
    Raises:
        ValueError: environments without a RecordRewards. TypeError: something else.
    """

    def __init__(self, source: Any):
        if not callable(source) and not hasattr(source, "get_attr") and not isinstance(source, gymnasium.Env):
            raise TypeError(
                "rewards: expected an environment, a vector of them or a callable that gives the rewards of "
                f"the last step, got {type(source).__name__}"
            )
        self._source: Any | Callable[[], Any] = source
        if not callable(source):
            self._recorded()

    def of(self, rows: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """(N,) float64 rewards of the last step, zeros but for `rows` (N,) bool.

        Args:
            steps: (N,) how many steps of its episode each environment should have made.
        Raises:
            ValueError: another number of environments, or of steps.
        """
        if callable(self._source):
            counted, rewards = steps, np.asarray(self._source(), np.float64).reshape(-1)
        else:
            counted, rewards = self._recorded()
        if rewards.shape != rows.shape:
            raise ValueError(
                f"rewards: expected those of {len(rows)} environments, as there are observations, got "
                f"{len(rewards)}"
            )
        wrong = np.flatnonzero(rows & (counted != steps))
        if wrong.size:
            i = int(wrong[0])
            raise ValueError(
                f"rewards: environment {i} has made {counted[i]} steps of its episode, predict was asked for "
                f"{steps[i]} actions of it; give the environment that is acted in, with one predict for "
                "each step"
            )
        return np.where(rows, rewards, 0.0)

    def _recorded(self) -> tuple[np.ndarray, np.ndarray]:
        """(N,) steps and rewards."""
        try:
            if hasattr(self._source, "get_attr"):
                pairs = list(self._source.get_attr("recorded"))
            else:
                pairs = [self._source.get_wrapper_attr("recorded")]
        except AttributeError:
            raise ValueError(
                "rewards: expected environments with a RecordRewards around each; for a vector of "
                "Stable-Baselines3: make_vec_env(ENV, wrapper_class=RecordRewards)"
            ) from None
        steps, rewards = zip(*pairs, strict=True)
        return np.array(steps, np.int64), np.array(rewards, np.float64)
