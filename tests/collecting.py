"""Collections to test with, and their actions computed once more, literally."""

import faulty_env
import numpy as np
import torch
from rounding import blas_rounds_rows_alike

from dtag_fast.rollout import CollectionTask, Collector, Exploration

NONE, NOISE, SAMPLE = Exploration("none"), Exploration("noise", 0.3), Exploration("sample")
TARGET = 50.0


def tasks_of(policy, seeds, guide_steps=0):
    target = TARGET if policy.model.takes_target_return else None
    return [CollectionTask(seed, target, guide_steps) for seed in seeds]


def collect(policy, seeds, exploration=NONE, guide_steps=0, **options):
    with Collector(policy, exploration=exploration, **({"slots": 4} | options)) as collector:
        return collector.collect(tasks_of(policy, seeds, guide_steps))


def bits(collection):
    """All that a collection holds, to compare."""
    return [
        (c.task, [part.tobytes() for part in c.episode], c.played) for c in collection.episodes
    ] + collection.failures


def assert_same(one, other):
    """Equal to the last bit where this machine's products round rows alike, else nearly so."""
    if blas_rounds_rows_alike():
        assert bits(one) == bits(other)
        return
    for a, b in zip(one.episodes, other.episodes, strict=True):
        assert all(np.allclose(x, y, atol=1e-4) for x, y in zip(a.episode, b.episode, strict=True))


def literal_actions(policy, found, exploration=NONE, improve=None, guide=None):
    """The actions of a collected episode once more: one step at a time over its own history."""
    model, episode, task = policy.model, found.episode, found.task
    k, scale = model.config.context_len, model.config.return_scale
    numbers = np.random.default_rng([task.seed, *b"exploration"])
    raw, executed = torch.from_numpy(episode.observations), torch.from_numpy(episode.actions)
    earned = np.cumsum([0.0, *episode.rewards[:-1]])
    returns = torch.tensor((task.target_return - earned) / scale, dtype=torch.float32)[:, None]
    actions = []
    for t in range(len(executed)):
        acts = model if guide is None or t >= task.guide_steps else guide.model
        steps = slice(max(0, t + 1 - k), t + 1)
        past = executed[steps].clone()
        past[-1] = 0.0
        times, mask = torch.arange(steps.start, t + 1), torch.ones(t + 1 - steps.start, dtype=torch.bool)
        window = (acts.normalize_states(raw[steps]), past, returns[steps], times, mask)
        window = [part[None] for part in window]
        noise = torch.from_numpy(numbers.standard_normal(executed.shape[1])).float()
        with torch.no_grad():
            action = acts(*window).actions[:, -1]
            if acts is model:
                if exploration.kind == "sample":
                    mean, log_std = (part[:, -1] for part in acts.distribution(*window))
                    action = torch.tanh(mean + log_std.exp() * noise)
                if improve is not None:
                    action = improve(raw[t : t + 1], action)
                if exploration.kind == "noise":
                    action = (action + exploration.std * noise).clamp(-1, 1)
        actions.append(action[0].numpy())
    return np.array(actions)


def faulty(make_policy, *faults, policy_kind="odt", **about):
    spec = {"id": faulty_env.ENV_ID, "kwargs": {"faults": faults}, "max_episode_steps": 12}
    sizes = {"state_dim": faulty_env.STATE_DIM, "action_dim": faulty_env.ACTION_DIM}
    return make_policy(policy_kind, **sizes, env_id=faulty_env.ENV_ID, env_spec=spec, **about)
