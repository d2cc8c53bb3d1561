"""The unit of work of a sweep: some cells, some episodes, one call of `evaluate`."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from dtag_fast.models.behaviour import BehaviourModel
from dtag_fast.models.gated_critic import GatedCritic
from dtag_fast.rollout.candidates import Candidates
from dtag_fast.rollout.evaluation import evaluate
from dtag_fast.rollout.faults import FailedEpisode
from dtag_fast.rollout.results import EpisodesFailed, SettingResult
from dtag_fast.rollout.settings import AGSetting
from dtag_fast.sweep.cells import setting_columns
from dtag_fast.sweep.table import Row
from dtag_fast.training.behaviour import behaviour_checksum, load_behaviour
from dtag_fast.training.checkpoint import load_critic, load_policy


@dataclass(frozen=True)
class HowToPlay:
    """What all jobs of a sweep share: options of `evaluate`, and the names that rows carry.

    behaviour: checksum of the model that the critic's checkpoint keeps; None where no setting asks for it.
    gate_limit: of a `GatedCritic` around the critic; None for no gate.
    """

    run: str
    critic: str | None
    env_id: str | None
    device: str
    max_envs: int
    history_lengths: tuple[int, ...] | None
    candidates: Candidates | None
    env_timeout: float | None = None
    behaviour: str | None = None
    gate_limit: float | None = None


@dataclass(frozen=True)
class Job:
    """Every setting under every target for the episodes that start with seeds first_seed + 0 .. episodes - 1.

    checkpoint, critic: folders of checkpoints.
    """

    checkpoint: str
    critic: str | None
    settings: tuple[AGSetting, ...]
    targets: tuple[float | None, ...]
    first_seed: int
    episodes: int
    how: HowToPlay

    @property
    def units(self) -> int:
        """Episodes in all."""
        return len(self.settings) * len(self.targets) * self.episodes

    @property
    def is_regularised(self) -> bool:
        """Whether a setting needs the model of the behaviour."""
        return any(setting.behaviour is not None for setting in self.settings)

    @property
    def name(self) -> str:
        """For messages."""
        step, last = Path(self.checkpoint).name, self.first_seed + self.episodes - 1
        labels = [setting_columns(setting)["setting"] for setting in self.settings]
        many = f" and {len(labels) - 1} more" if len(labels) > 1 else ""
        return f"step {step}, {labels[0]}{many}, seeds {self.first_seed}..{last}"

    def run(self, progress: Callable[[int], None]) -> list[Row]:
        """See `play_job`."""
        return play_job(self, lambda _done, _total: progress(1))


def play_job(job: Job, progress: Callable[[int, int], None] | None = None) -> list[Row]:
    """Play a job in this process with one thread; errors as `evaluate`, `load_policy` and `load_critic`.

    An episode that its environment did not let finish has a row with its error and without numbers. A row's
    numbers depend on its own seed, setting and target alone (on a CPU; docs/evaluation.md).
    """
    how = job.how
    policy = _policy(job.checkpoint, how.device, _written(job.checkpoint))
    critic = None
    if job.critic is not None:
        critic = _critic(job.critic, how.device, _written(job.critic), how.gate_limit)
    try:
        result = evaluate(
            policy,
            critic=critic,
            settings=job.settings,
            target_returns=None if job.targets == (None,) else job.targets,
            episodes=job.episodes,
            seed=job.first_seed,
            env_id=how.env_id,
            max_envs=how.max_envs,
            workers=1,
            env_processes=0 if how.env_timeout is None else 1,  # jobs fill the cores
            env_timeout=how.env_timeout,
            history_lengths=how.history_lengths,
            candidates=how.candidates,
            behaviour=_behaviour(job.critic, how.behaviour) if job.is_regularised else None,
            progress=progress,
        )
    except EpisodesFailed as error:  # all of them
        result = error.result
    about = {
        "run": how.run,
        "checkpoint_step": policy.info.step,
        "algorithm": policy.info.algorithm,
        "dataset_id": policy.info.dataset_id,
        "env_id": result.env_id,
        "critic": how.critic,
    }
    finished = [row for found in result.settings for row in _rows(found, about)]
    settings = {found.label: found.setting for found in result.settings}
    return finished + [
        about | setting_columns(settings[failed.label]) | _row_of_failed(failed) for failed in result.failures
    ]


def _row_of_failed(failed: FailedEpisode) -> Row:
    numbers = ("episode_return", "normalized_score", "length", "terminated", "mean_q_0", "mean_q_gain")
    where = {"target_return": failed.target_return, "seed": failed.seed}
    return where | dict.fromkeys(numbers) | {"error": str(failed)}


def _written(checkpoint: str) -> tuple[int, ...]:
    """When the files of a checkpoint were written: a run that is trained anew has other networks in it."""
    return tuple(sorted(file.stat().st_mtime_ns for file in Path(checkpoint).glob("*.safetensors")))


# A worker process plays many jobs with the same networks.
@lru_cache(maxsize=4)
def _policy(checkpoint: str, device: str, written: tuple[int, ...]):
    return load_policy(checkpoint, device)


@lru_cache(maxsize=4)
def _critic(checkpoint: str, device: str, written: tuple[int, ...], gate_limit: float | None):
    found = load_critic(checkpoint, device)
    return found if gate_limit is None else found._replace(critic=GatedCritic(found.critic, gate_limit))


@lru_cache(maxsize=4)
def _behaviour(critic: str, checksum: str) -> BehaviourModel:
    """The model that this checkpoint keeps, which must be the one that the sweep began with."""
    found = behaviour_checksum(critic)
    if found != checksum:
        raise ValueError(
            f"behaviour: the model kept with {critic} was replaced during the sweep (checksum {found}, "
            f"expected {checksum}); put the old one back, or sweep into another folder"
        )
    return load_behaviour(critic)


def _rows(found: SettingResult, about: Row) -> list[Row]:
    columns = about | {"target_return": found.target_return} | setting_columns(found.setting)
    score = found.normalized
    rows = []
    for i, seed in enumerate(found.seeds):
        reached = found.returns[i]
        rows.append(
            columns
            | {
                "seed": seed,
                "episode_return": reached,
                "normalized_score": score
                and 100 * (reached - score.ref_min) / (score.ref_max - score.ref_min),
                "length": found.lengths[i],
                "terminated": found.terminated[i],
                "mean_q_0": found.mean_q_0 and found.mean_q_0[i],
                "mean_q_gain": found.mean_q_gain and found.mean_q_gain[i],
                "error": None,
            }
        )
    return rows
