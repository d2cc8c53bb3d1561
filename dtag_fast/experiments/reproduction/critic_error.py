"""How well a critic's Q tells what followed in episodes that it was not trained on.

What followed a step is the discounted sum of the rewards to the end of its episode, in the critic's units:

    G_t = sum over j >= 0 of discount^j (scale r_{t+j} + shift)

Of an episode that terminated this is all there is. Beyond a time limit nothing was seen, and discount^k of
the weight lies there where k steps are left: steps with more than a tenth of it there are left out, and for
the others the mean reward is taken to go on. A critic that was asked for the rest would be judged by itself.

G is what the data's policy got by chance, so that no Q explains all of it, and one that is right about a
better policy is above it. Critics are to be compared on the same episodes, and by ranks first: those mind
neither scale nor optimism that is the same everywhere.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from dtag_fast.algorithms.critics import minimum
from dtag_fast.data import TrajectoryStore
from dtag_fast.data.returns import returns_to_go
from dtag_fast.experiments.rank_correlation import rank_correlation
from dtag_fast.experiments.reproduction.trainings import Training, divergence
from dtag_fast.experiments.reproduction.work import Progress, Shelf, Work
from dtag_fast.training import load_critic
from dtag_fast.training.files import write_json
from dtag_fast.training.validation import split_episodes

MOST_UNSEEN = 0.1  # share of a return's weight that may lie beyond a time limit
CHUNK = 8192  # steps of a call of the critic


@dataclass(frozen=True)
class CriticError(Work):
    """What `measure` says of a critic on the episodes held out of its training.

    Raises:
        ValueError: none were.
    """

    critic: Training

    folder: ClassVar[str] = "critic-errors"
    code: ClassVar[tuple[str, ...]] = (
        "algorithms/critics.py",
        "data",
        "models",
        "ops",
        "training/checkpoint.py",
        "training/validation.py",
        "experiments/rank_correlation.py",
        "experiments/reproduction/critic_error.py",
        "experiments/reproduction/datasets.py",
    )

    def __post_init__(self) -> None:
        if self.critic.holdout is None:
            raise ValueError(f"critic: expected a training with a holdout, {self.critic.label} has none")

    @property
    def label(self) -> str:
        return self.critic.label

    @property
    def needs(self) -> tuple[Work, ...]:
        return (self.critic,)

    @property
    def seconds(self) -> float:
        return 2.0

    def do(self, path: Path, shelf: Shelf, progress: Progress) -> None:
        if diverged := divergence(shelf.path(self.critic)):
            write_json(path, {"diverged": diverged})
            return
        critic, info = load_critic(shelf.path(self.critic))
        _, held_out = split_episodes(self.critic.data.load(shelf), self.critic.holdout, self.critic.seed)
        units = {"reward_scale": info.reward_scale, "reward_shift": info.reward_shift}
        write_json(path, measure(critic, held_out, discount=info.discount, **units))


def measure(
    critic: torch.nn.Module,
    held_out: TrajectoryStore,
    *,
    discount: float,
    reward_scale: float = 1.0,
    reward_shift: float = 0.0,
) -> dict[str, Any]:
    """The smallest Q of the members, which Action Gradient climbs, against what followed.

    Returns:
        episodes, steps: how many it is about.
        rank: rank correlation of Q and G. rank_other_actions: the same where each state gets the action of
            another step; what is lost is what Q has from the action, whose gradient is to be followed. A Q
            that is wild off the data loses as well.
        explained: 1 - Var(G - Q) / Var(G). error: sqrt(mean (Q - G)^2) / sd(G). bias: mean (Q - G) / sd(G).
        A number that is not defined, as all G or all Q are equal, is None.

    Raises:
        ValueError: no step's G is known well enough.
    """
    rewards = held_out.rewards.astype(np.float64) * reward_scale + reward_shift
    followed, unseen = what_followed(held_out, rewards, discount)
    kept = np.flatnonzero(unseen <= MOST_UNSEEN)
    if not len(kept):
        raise ValueError(
            f"held_out: expected episodes that terminate, or of which {MOST_UNSEEN:g} of the weight or less "
            f"lies beyond the time limit; none of {held_out.num_episodes} is such with a discount of "
            f"{discount:g}; hold out more episodes"
        )
    followed = followed[kept]
    states, actions = held_out.observations[held_out.state_rows[kept]], held_out.actions[kept]
    q = smallest_q(critic, states, actions)
    others = smallest_q(critic, states, np.random.default_rng(0).permutation(actions))
    spread, off = followed.std(), q - followed
    known = bool(spread > 0)
    return {
        "episodes": held_out.num_episodes,
        "steps": len(kept),
        "rank": rank_correlation(q, followed),
        "rank_other_actions": rank_correlation(others, followed),
        "explained": float(1 - off.var() / followed.var()) if known else None,
        "error": float(np.sqrt(np.square(off).mean()) / spread) if known else None,
        "bias": float(off.mean() / spread) if known else None,
    }


def what_followed(
    store: TrajectoryStore, rewards: np.ndarray, discount: float
) -> tuple[np.ndarray, np.ndarray]:
    """G (N,) of every step, and the share of its weight that lies beyond what was seen.

    Args:
        rewards: (N,) in the units of G. discount: in [0, 1]; with 1, all of the weight lies beyond a cut.
    """
    last = store.terminations | store.truncations
    last[store.offsets[1:] - 1] = True
    ends = np.flatnonzero(last) + 1
    lengths = np.diff(ends, prepend=0)
    left = np.repeat(ends, lengths) - np.arange(len(rewards))  # (N,) steps to the end, this one included
    unseen = np.where(np.repeat(store.terminations[ends - 1], lengths), 0.0, discount**left)
    rest = rewards.mean() / (1 - discount) if discount < 1 else 0.0
    return returns_to_go(rewards, np.array([0, *ends]), discount) + unseen * rest, unseen


@torch.no_grad()
def smallest_q(critic: torch.nn.Module, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """(N,) float64 for states (N, S) and actions (N, A)."""
    parts = zip(torch.from_numpy(states).split(CHUNK), torch.from_numpy(actions).split(CHUNK), strict=True)
    return torch.cat([minimum(critic(*part)) for part in parts])[:, 0].double().numpy()
