"""Episodes of a policy, with and without Action Gradient, and the choice of a setting by other episodes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from dtag_fast.experiments.reproduction.estimates import EPISODE_SECONDS
from dtag_fast.experiments.reproduction.trainings import Training, divergence
from dtag_fast.experiments.reproduction.work import Progress, Shelf, Work
from dtag_fast.rollout import AGSetting, Candidates, evaluate
from dtag_fast.rollout.results import EpisodesFailed
from dtag_fast.rollout.settings import is_plain_record
from dtag_fast.training import LoadedCritic, gated, load_critic, load_policy
from dtag_fast.training.files import read_json, write_json
from dtag_fast.training.validation import split_episodes


@dataclass(frozen=True)
class Evaluation(Work):
    """A call of `rollout.evaluate`: all settings on the same episodes.

    With a critic whose training diverged the policy alone is played. Nothing is played with a policy whose
    training diverged, nor without a setting that is the policy alone.

    Attributes:
        settings: of Action Gradient. target_returns: None for those of the policy's preset.
        episodes: of each setting and target. seed: of the first one.
        history_lengths, candidates: as `evaluate` takes them.
        gate: quantile of `training.gated` over the critic's data; None for no gate.
        chosen_by: evaluations of other episodes, mostly of other training seeds, whose best setting of Action
            Gradient is added to `settings`, and whose best target return for the plain policy is asked for.
    """

    policy: Training
    critic: Training | None = None
    settings: tuple[AGSetting, ...] = (AGSetting(),)
    target_returns: tuple[float, ...] | None = None
    episodes: int = 10
    seed: int = 0
    history_lengths: tuple[int, ...] | None = None
    candidates: Candidates | None = None
    gate: float | None = None
    chosen_by: tuple["Evaluation", ...] = ()

    folder: ClassVar[str] = "evaluations"
    code: ClassVar[tuple[str, ...]] = (
        "ops",
        "models",
        "rollout",
        "data",
        "training/checkpoint.py",
        "training/gate.py",
        "experiments/reproduction/datasets.py",
        "experiments/reproduction/evaluations.py",
    )

    @property
    def label(self) -> str:
        if self.critic is None:
            return self.policy.label
        return f"{self.policy.label}-{self.critic.algorithm}{'' if self.gate is None else '-gated'}"

    @property
    def needs(self) -> tuple[Work, ...]:
        return (self.policy, *(() if self.critic is None else (self.critic,)), *self.chosen_by)

    @property
    def seconds(self) -> float:
        targets = 2 if self.target_returns is None else len(self.target_returns)
        return EPISODE_SECONDS * self.episodes * targets * (len(self.settings) + bool(self.chosen_by))

    def do(self, path: Path, shelf: Shelf, progress: Progress) -> None:
        policy_lost, critic_lost = (
            training and divergence(shelf.path(training)) for training in (self.policy, self.critic)
        )
        settings, targets, chosen = self.settings, self.target_returns, None
        if critic_lost:
            settings = tuple(setting for setting in settings if setting.is_plain)
        if policy_lost or not settings:
            write_json(path, {"diverged": policy_lost or critic_lost})
            return
        if self.chosen_by:
            chosen = choose([read(tuning, shelf) for tuning in self.chosen_by])
            if chosen["target_return"] is not None:
                targets = (chosen["target_return"],)
            if chosen["setting"] is not None and not critic_lost:
                settings = (*settings, self.chosen_by[0].settings[chosen["setting"]])
        policy = load_policy(shelf.path(self.policy))
        critic = None if critic_lost else self._critic(shelf)
        try:
            result = evaluate(
                policy,
                critic=critic,
                settings=settings,
                target_returns=targets,
                episodes=self.episodes,
                seed=self.seed,
                workers=1,
                env_processes=0,
                history_lengths=self.history_lengths,
                candidates=self.candidates,
                progress=lambda done, total: progress(done / total),
            )
        except EpisodesFailed as error:
            result = error.result
        about = {"chosen": chosen, "settings_asked": len(settings)}
        if critic_lost:
            about["critic_diverged"] = critic_lost
        write_json(path, result.to_dict() | about)

    def _critic(self, shelf: Shelf) -> LoadedCritic | None:
        """The critic, behind its gate; with candidates and without a critic that of the policy's run."""
        if self.critic is None:
            return None if self.candidates is None else load_critic(shelf.path(self.policy))
        found = load_critic(shelf.path(self.critic))
        if self.gate is None:
            return found
        store = self.critic.data.load(shelf)
        if self.critic.holdout is not None:
            store, _ = split_episodes(store, self.critic.holdout, self.critic.seed)
        return found._replace(critic=gated(found.critic, store, self.gate))


def read(evaluation: Evaluation, shelf: Shelf) -> dict[str, Any]:
    """What an evaluation wrote."""
    return read_json(shelf.path(evaluation))


def choose(tunings: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The target return with the best plain policy and, for it, the best setting of Action Gradient.

    Best: highest mean over `tunings`, which have the same settings, of their mean returns; the first of
    equals. A setting of which a tuning finished no episode is the worst; a tuning that diverged counts for
    nothing, and one whose critic did for nothing but the target, where there is no other.

    Returns:
        target_return: or None where policies take none. setting: its place among the settings, None where
        there is but the plain policy. means: of each setting for that target, None where one finished no
        episode.
    """
    tunings = [found for found in tunings if "settings" in found]
    tunings = [found for found in tunings if "critic_diverged" not in found] or tunings
    if not tunings:
        return {"target_return": None, "setting": None, "means": []}
    count = tunings[0]["settings_asked"]
    rows = tunings[0]["settings"]
    targets = list(dict.fromkeys(row["target_return"] for row in rows))
    # evaluate lists settings, and for each of them the targets
    mean = np.array(
        [
            [row["mean"] if row["mean"] is not None else -np.inf for row in found["settings"]]
            for found in tunings
        ]
    )
    mean = mean.mean(axis=0).reshape(count, len(targets))
    is_plain = [is_plain_record(row["setting"]) for row in rows[:: len(targets)]]
    plain = is_plain.index(True) if True in is_plain else None
    target = int((mean.max(axis=0) if plain is None else mean[plain]).argmax())
    refined = [place for place, is_so in enumerate(is_plain) if not is_so]
    best = max(refined, key=lambda place: mean[place, target], default=None)
    means = [value if math.isfinite(value) else None for value in mean[:, target].tolist()]
    return {"target_return": targets[target], "setting": best, "means": means}
