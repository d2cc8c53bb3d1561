"""What a suite builds its pieces of work with: the budget applied to tasks, algorithms and seeds."""

from dataclasses import dataclass, replace
from typing import Any

from dtag_fast.algorithms.registry import lookup
from dtag_fast.experiments.reproduction.budget import (
    FIRST_EPISODE,
    FIRST_TUNING_EPISODE,
    TUNING_SEED,
    Budget,
)
from dtag_fast.experiments.reproduction.datasets import Data, Maze
from dtag_fast.experiments.reproduction.evaluations import Evaluation
from dtag_fast.experiments.reproduction.tasks import MAZE2D, Source
from dtag_fast.experiments.reproduction.trainings import Training
from dtag_fast.rollout import AGSetting, grid

POLICIES = {"DT": "dt", "RF": "reinformer"}  # by their names in tables


@dataclass(frozen=True)
class Lab:
    """Attributes: budget, source: see there. seeds: trainings that are reported, 1 .. seeds."""

    budget: Budget
    source: Source
    seeds: int

    @property
    def reported(self) -> range:
        """Seeds of the trainings that are reported."""
        return range(1, 1 + self.seeds)

    @property
    def reported_in_words(self) -> str:
        """ "training seed 1", "training seeds 1 to 3"."""
        first, last = self.reported[0], self.reported[-1]
        return f"training seed {first}" if first == last else f"training seeds {first} to {last}"

    def data(self, task: str) -> Data | None:
        """What stands for a task here; None where nothing does."""
        if self.source.kind == "local" and task in MAZE2D:
            return Data(Maze(task.partition("-")[2], self.budget.maze_steps))
        found = self.source.find(task)
        return None if found is None else Data(found)

    def training(
        self,
        task: str,
        algorithm: str,
        seed: int,
        *,
        data: Data | None = None,
        critic: Training | None = None,
        holdout: float | None = None,
        **changes: Any,
    ) -> Training:
        """A training with the budget's settings and `changes` on top.

        Args:
            data: None for the task's.
        """
        settings = self.budget.changes.get(algorithm, {}) | changes
        return Training(
            task=task,
            data=data or self.data(task),
            algorithm=algorithm,
            updates=self.budget.updates[algorithm],
            seed=seed,
            changes=tuple(sorted(settings.items())),
            critic=critic,
            holdout=holdout,
        )

    def plain(self, policy: Training, **options: Any) -> Evaluation:
        """The policy alone on the reported episodes; where it asks for a return, the one chosen by the
        policy of the tuning seed."""
        chosen_by = (self._tuning(policy, None, (AGSetting(),), options),) if asks_for_returns(policy) else ()
        return Evaluation(
            policy, episodes=self.budget.episodes, seed=FIRST_EPISODE, chosen_by=chosen_by, **options
        )

    def refined(
        self,
        policy: Training,
        critic: Training,
        settings: tuple[AGSetting, ...] | None = None,
        *,
        own: bool = False,
        **options: Any,
    ) -> Evaluation:
        """The policy alone and with the setting of Action Gradient that is best for the tuning seed.

        Args:
            settings: to choose from; None for the budget's n and step sizes.
            own: choose, by the same episodes, on this policy and critic in place of the tuning seed's.
        """
        settings = (AGSetting(), *(self.step_sizes() if settings is None else settings))
        return Evaluation(
            policy,
            critic,
            episodes=self.budget.episodes,
            seed=FIRST_EPISODE,
            chosen_by=(self._tuning(policy, critic, settings, options, own),),
            **options,
        )

    def swept(
        self, policy: Training, critic: Training, settings: tuple[AGSetting, ...], **options: Any
    ) -> Evaluation:
        """The policy alone and with every one of `settings`, on as many episodes as choose one elsewhere."""
        chosen_by = (self._tuning(policy, None, (AGSetting(),), {}),) if asks_for_returns(policy) else ()
        return Evaluation(
            policy,
            critic,
            (AGSetting(), *settings),
            episodes=self.budget.tuning_episodes,
            seed=FIRST_EPISODE,
            chosen_by=chosen_by,
            **options,
        )

    def step_sizes(self, **options: Any) -> tuple[AGSetting, ...]:
        """Action Gradient with every step size of the budget."""
        return tuple(grid((self.budget.ag_steps,), self.budget.ag_lr, **options))

    def _tuning(self, policy, critic, settings, options, own=False) -> Evaluation:
        if not own:
            policy = self._for_tuning(policy)
            critic = None if critic is None else self._for_tuning(critic)
        return Evaluation(
            policy,
            critic,
            settings,
            episodes=self.budget.tuning_episodes,
            seed=FIRST_TUNING_EPISODE,
            **options,
        )

    def _for_tuning(self, training: Training) -> Training:
        """The same training with the seed that is never reported, which also draws its part of the data."""
        critic = training.critic and self._for_tuning(training.critic)
        data = replace(training.data, seed=TUNING_SEED)
        return replace(training, seed=TUNING_SEED, critic=critic, data=data)


def asks_for_returns(policy: Training) -> bool:
    """Whether an evaluation asks this policy for a return."""
    return hasattr(lookup(policy.algorithm).config, "target_returns")
