"""Collection of episodes to learn from: played as in evaluation, explored, and kept whole."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from dtag_fast.data import Episode
from dtag_fast.rollout.arguments import expect_loaded
from dtag_fast.rollout.collection_arguments import check_acting, check_counts, check_task
from dtag_fast.rollout.environment_kind import EnvironmentKind
from dtag_fast.rollout.evaluation import make_actor
from dtag_fast.rollout.exploration import ActionNoise, Exploration, SamplingPolicy
from dtag_fast.rollout.faults import FailedEpisode
from dtag_fast.rollout.guided import GuidedPolicy
from dtag_fast.rollout.network_copies import matching_tensors, own_copy
from dtag_fast.rollout.placement import open_environments, place, refuse_few, shares
from dtag_fast.rollout.policy import SequencePolicy
from dtag_fast.rollout.reactive import ReactivePolicy
from dtag_fast.rollout.recorder import LEARNER, EpisodeRecorder, GuidedTask
from dtag_fast.rollout.refinement import Refinement
from dtag_fast.rollout.runner import Failed, Played, Worker, play_all
from dtag_fast.rollout.setting_results import failed_episodes
from dtag_fast.rollout.settings import AGSetting
from dtag_fast.training.checkpoint import LoadedCritic, LoadedPolicy


@dataclass(frozen=True)
class CollectionTask:
    """One episode to collect.

    Attributes:
        seed: of its reset and of its exploration, >= 0.
        target_return: to ask of the policy, in the environment's units; None for policies that take none.
        guide_steps: steps at its start in which the guide acts, >= 0.
    """

    seed: int
    target_return: float | None
    guide_steps: int = 0


@dataclass(frozen=True)
class Collected:
    """One finished episode.

    Attributes:
        episode: float32 and bool, the end as the environment told it: an episode that its time limit cut has
            a truncation. Rewards are delayed where the collector delays them.
        played: `episode_return` is the sum of the environment's own rewards.
    """

    task: CollectionTask
    episode: Episode
    played: Played


@dataclass(frozen=True)
class Collection:
    """What became of the tasks.

    Attributes:
        episodes: those that were finished, in the order of the tasks. failures: the others, likewise.
        env_steps: of all of them; of a failed one up to the step that failed.
    """

    episodes: list[Collected]
    failures: list[FailedEpisode]
    env_steps: int


class Collector:
    """Collects episodes of a policy that is being trained, in environments that stay open between calls.

        with Collector(load_policy(run), slots=8, exploration=Exploration("noise")) as collector:
            collector.take(learner.model)
            collection = collector.collect([CollectionTask(seed, 7200.0) for seed in range(8)])

    Episodes are played by the code that `evaluate` runs, many environments at a time. The executed action
    enters the policy's history and the episode. On a CPU an episode's bits depend on its task and the
    networks alone, as far as those of an evaluation do (docs/evaluation.md), and with `Exploration("none")`
    they are those of an evaluation. An environment that fails ends its own episode; all others are finished.

    The collector acts with networks of its own: copies, in eval mode, that `take` writes into. So `collect`
    may run in one thread while another trains; the trainer's number of PyTorch threads stays what it is.

    Args:
        policy: what to begin with, and what is known about it; of continuous actions.
        slots: environments alive at once, over all workers, >= 1.
        exploration: see `Exploration`.
        critic: what Action Gradient begins with; needed with ag.
        ag: the Action Gradient that refines the policy's action, or the one drawn, before noise is added.
            None refines nothing; with a critic that tells Q of the executed actions all the same.
        guide: acts with its mean action in the first `guide_steps` steps of a task; what it does is neither
            refined nor perturbed. Never changed by `take`.
        reward_delay: M >= 1: rewards are given out, summed, every M steps and at the end of the episode, in
            the episode and to the policy, which subtracts them from its return-to-go
            (`dtag_fast.data.delayed` does so to a dataset).
        workers: threads that each have a share of the slots, at most `slots`.
        env_id, env_processes, env_timeout: as for `evaluate`; by the rule, processes are started where they
            make a step of all slots fast enough, as their start is paid once.

    Attributes:
        placement: how many processes step the environments, and why.

    Raises:
        TypeError: a policy, guide, critic, exploration or ag of another kind.
        ValueError: a bad argument, a missing environment id, guide or critic, policies and critic that do not
            go together, discrete actions, a policy without a distribution to draw from, or an environment of
            other spaces.
    """

    def __init__(
        self,
        policy: LoadedPolicy,
        *,
        slots: int,
        exploration: Exploration,
        critic: LoadedCritic | None = None,
        ag: AGSetting | None = None,
        guide: LoadedPolicy | None = None,
        reward_delay: int = 1,
        workers: int = 1,
        env_id: str | None = None,
        env_processes: int | None = None,
        env_timeout: float | None = None,
    ):
        expect_loaded(policy, critic)
        env_id = env_id or policy.info.env_id
        setting = AGSetting() if ag is None else ag
        check_counts(slots, workers, reward_delay, env_processes, env_timeout)
        check_acting(policy, exploration, critic, setting, guide, env_id)
        self._policy, self._critic, self._guide = (own_copy(x) for x in (policy, critic, guide))
        self._label, self._exploration = setting.label, exploration
        device = next(self._policy.model.parameters()).device
        self._on_cpu = device.type == "cpu"
        self._busy, self._stop, self._closed = threading.Lock(), threading.Event(), False
        kind = EnvironmentKind.of(policy.info, env_id)
        counts = {"workers": workers, "slots": slots, "episodes": math.inf}
        placement = place(env_processes, kind, **counts, timeout=env_timeout)
        if 0 < placement.processes < workers:
            refuse_few(placement.processes, workers)
        refinement = self._refinement(setting, device)
        insist = env_processes is not None or env_timeout is not None
        with ExitStack() as stack:
            shared = shares(slots, workers)
            placed, self.placement = open_environments(stack, kind, shared, placement, env_timeout, insist)
            self._crew = [
                self._worker(environments, count, refinement, reward_delay)
                for environments, count in zip(placed, shared, strict=True)
            ]
            self._environments = stack.pop_all()

    @torch.no_grad()
    def take(self, model: nn.Module, critic: nn.Module | None = None) -> None:
        """Go on with these numbers: every parameter and buffer is copied, in place.

        Args:
            model: of the policy's architecture, on any device. critic: likewise; needed where the collector
                has one, not looked at where it has none.

        Raises:
            ValueError: the critic is missing, or a network has other parameters; nothing is copied then.
            RuntimeError: a `collect` is running, or the collector is closed.
        """
        if self._critic is not None and critic is None:
            raise ValueError("critic: the collector acts with one, which would grow stale, got None; give it")
        with self._alone("take"):
            pairs = matching_tensors("model", self._policy.model, model)
            if self._critic is not None:
                pairs += matching_tensors("critic", self._critic.critic, critic)
            for own, theirs in pairs:
                own.copy_(theirs)

    def collect(self, tasks: Sequence[CollectionTask]) -> Collection:
        """Play the tasks to their ends.

        Raises:
            ValueError: a seed, target return or number of guide steps that cannot be, or a policy that gives
                an action that is not finite.
            RuntimeError: a `collect` or `take` is running, or the collector is closed, before or meanwhile.
        """
        tasks = list(tasks)
        for task in tasks:
            check_task(task, self._policy.model, self._guide)
        with self._alone("collect"):
            wanted = [GuidedTask(LEARNER, t.target_return, t.seed, t.guide_steps) for t in tasks]
            outcomes, _ = play_all(self._crew, wanted, stop=self._stop)
            self._expect_open("collect")
        episodes = [
            Collected(task, outcome.episode, outcome.played)
            for task, outcome in zip(tasks, outcomes, strict=True)
            if not isinstance(outcome, Failed)
        ]
        failures = failed_episodes(wanted, outcomes, [self._label] * len(tasks))
        steps = sum(c.played.length for c in episodes) + sum(f.step for f in failures)
        return Collection(episodes, failures, steps)

    def close(self) -> None:
        """Close the environments and end their processes, once a `collect` in another thread has given up at
        its next step; again does nothing."""
        self._closed = True
        self._stop.set()
        with self._busy:
            self._environments.close()

    def __enter__(self) -> Collector:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _refinement(self, setting: AGSetting, device: torch.device) -> Refinement | None:
        if self._critic is None:
            return None
        info = self._policy.info
        settings = [setting] if self._guide is None else [setting, AGSetting(reduce=setting.reduce)]
        refinement = Refinement(
            self._critic.critic.to(device), info.action_bounds, settings, device, self._on_cpu
        )
        refinement.prepare(info.state_dim, info.action_dim)
        return refinement

    def _worker(self, environments, slots: int, refinement: Refinement | None, reward_delay: int) -> Worker:
        """The one that plays in these environments."""
        actor, guided, noise = self._learner(slots), None, None
        if self._guide is not None:
            target = 0.0 if self._guide.model.takes_target_return else None
            guide = make_actor(self._guide, slots, target, self._on_cpu, None, None, None)
            actor = guided = GuidedPolicy(actor, guide)
        if self._exploration.kind == "noise":
            noise = ActionNoise(self._exploration.std, self._policy.info.action_bounds, slots)
        recorder = EpisodeRecorder(slots, noise, guided, reward_delay)
        return Worker(actor, environments, refinement, recorder)

    def _learner(self, slots: int) -> SequencePolicy | ReactivePolicy:
        # Every episode is reset with the target of its task: the one given here is asked for by none.
        target = 0.0 if self._policy.model.takes_target_return else None
        if self._exploration.kind != "sample":
            return make_actor(self._policy, slots, target, self._on_cpu, None, None, None)
        info = self._policy.info
        scales = info.reward_scale, info.reward_shift
        return SamplingPolicy(self._policy.model, slots, target, *scales, batch_invariant=self._on_cpu)

    @contextmanager
    def _alone(self, what: str) -> Iterator[None]:
        """Refuse to do something while something else is being done, or when all is closed."""
        if not self._busy.acquire(blocking=False):
            raise RuntimeError(f"{what}: the collector is at work in another thread; wait until it is done")
        try:
            self._stop = threading.Event()  # before the look at _closed: `close` sets it after
            self._expect_open(what)
            yield
        finally:
            self._busy.release()

    def _expect_open(self, what: str) -> None:
        if self._closed:
            raise RuntimeError(f"{what}: the collector is closed; make another one")
