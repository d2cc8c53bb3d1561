"""What asking for a return beyond the data costs a return-conditioned policy, where everything is known.

In a small MDP (layered_mdp.py) the policy that conditioning on the return leads to has a closed form, from
the true distribution or from the counts of a dataset, and so has its value. Beside both plays a Decision
Transformer trained on the same dataset, which must extrapolate where the closed forms have nothing to
condition on. The bound: with alpha_f = P(return = target) under the data's policy,

    target - J(pi) <= eps (1 / alpha_f + 2) H^2        rewards in [0, 1]

(Brandfonbrener et al. 2022, arXiv 2206.01079, theorem 1; TD3+ODT, arXiv 2410.24108, section 3.3 and appendix
E, where 1 / alpha_f is shown to grow at least with the square of the target). Rewards up to M make it M times
that.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from dtag_fast.experiments import layered_mdp as mdps
from dtag_fast.experiments.layered_mdp import LayeredMDP, Steps
from dtag_fast.models import DecisionTransformer, DecisionTransformerConfig


@dataclass(frozen=True)
class ReturnRegretConfig:
    """Sizes of the problem and of the Decision Transformer; a few seconds a seed on one core."""

    horizon: int = 8
    states: int = 5
    actions: int = 3
    max_reward: int = 2
    eps: float = 0.05
    episodes: int = 500  # in the dataset
    offsets: tuple[int, ...] = (-6, -4, -2, -1, 0, 1, 2, 4, 6, 9, 12)  # targets, less the data's best return
    d_model: int = 32
    n_layer: int = 2
    updates: int = 600
    batch_size: int = 64
    lr: float = 3e-3
    played: int = 500  # episodes of the Decision Transformer for each target


def run_return_regret(seed: int = 0, config: ReturnRegretConfig | None = None) -> dict[str, Any]:
    """Draw an MDP and a dataset, train the network, ask everyone for every target.

    Returns:
        seed, config, best (value of the best policy), behaviour and behaviour_std (of
        the return under the data's policy), data_best and
        data_mean (returns in the dataset), loss (mean cross-entropy of the last 50 updates) and `targets`, a
        list of {offset, target, alpha, bound, exact, counted, network}: the last three are expected returns,
        the network's with its standard error `network_error`; bound is None where alpha is 0.
    """
    config = config or ReturnRegretConfig()
    rng = np.random.default_rng(seed)
    mdp = mdps.random_mdp(
        rng,
        horizon=config.horizon,
        states=config.states,
        actions=config.actions,
        max_reward=config.max_reward,
        eps=config.eps,
    )
    data = mdps.collect(mdp, config.episodes, rng)
    returns = data.rewards.sum(axis=1)
    model, loss = train_network(mdp, data, config, torch.Generator().manual_seed(seed))

    exact, counted = mdps.exact_policy(mdp), mdps.counted_policy(mdp, data)
    of_start = mdps.return_probabilities(mdp)[0][0, 0]  # (G,)
    behaviour, behaviour_std = mdps.behaviour_moments(mdp)
    rows = []
    for offset in config.offsets:
        target = int(returns.max()) + offset
        alpha = float(of_start[target]) if 0 <= target < len(of_start) else 0.0
        played = play_network(mdp, model, target, config.played, rng)
        rows.append(
            {
                "offset": offset,
                "target": target,
                "alpha": alpha,
                "bound": regret_bound(mdp, alpha),
                "exact": mdps.value_of(mdp, exact, target),
                "counted": mdps.value_of(mdp, counted, target),
                "network": float(played.mean()),
                "network_error": float(played.std(ddof=1) / len(played) ** 0.5),
            }
        )
    return {
        "seed": seed,
        "config": asdict(config),
        "best": mdps.best_value(mdp),
        "behaviour": behaviour,
        "behaviour_std": behaviour_std,
        "data_best": int(returns.max()),
        "data_mean": float(returns.mean()),
        "loss": loss,
        "targets": rows,
    }


def regret_bound(mdp: LayeredMDP, alpha: float) -> float | None:
    """eps (1 / alpha + 2) H^2 M; None where alpha is 0, as nothing is promised there."""
    if alpha == 0:
        return None
    return mdp.eps * (1 / alpha + 2) * mdp.horizon**2 * mdp.max_reward


def train_network(
    mdp: LayeredMDP, data: Steps, config: ReturnRegretConfig, generator: torch.Generator
) -> tuple[DecisionTransformer, float]:
    """A Decision Transformer on whole episodes by cross-entropy of the actions.

    Returns:
        the network in eval mode, and the mean loss of the last 50 updates.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed())
        model = DecisionTransformer(
            DecisionTransformerConfig(
                state_dim=mdp.num_states,
                action_dim=mdp.num_actions,
                context_len=mdp.horizon,
                d_model=config.d_model,
                n_layer=config.n_layer,
                dropout=0.0,
                max_timestep=mdp.horizon,
                discrete=True,
            )
        )
    tokens = _tokens(mdp, data.states, data.actions, data.returns_to_go)
    labels = torch.from_numpy(data.actions)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.updates)
    losses = []
    for _ in range(config.updates):
        rows = torch.randint(len(labels), (config.batch_size,), generator=generator)
        logits = model(*(part[rows] for part in tokens)).action_logits  # (B, H, A)
        loss = F.cross_entropy(logits.flatten(0, 1), labels[rows].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return model.eval(), float(np.mean(losses[-50:]))


@torch.inference_mode()
def play_network(
    mdp: LayeredMDP, model: DecisionTransformer, target: int, episodes: int, rng: np.random.Generator
) -> np.ndarray:
    """Returns (N,) of episodes whose actions are drawn from the network's probabilities, as the closed forms
    draw theirs; the return asked for falls by each reward."""
    shape = (episodes, mdp.horizon)
    states, actions, rewards = (np.zeros(shape, int) for _ in range(3))
    now = np.zeros(episodes, int)
    for t in range(mdp.horizon):
        states[:, t] = now
        left = target - np.concatenate(
            [np.zeros((episodes, 1), int), rewards[:, :t].cumsum(axis=1)], axis=1
        )  # (N, t + 1)
        tokens = _tokens(mdp, states[:, : t + 1], actions[:, : t + 1], left)
        logits = model(*tokens).action_logits[:, -1]
        actions[:, t] = mdps.choose(logits.double().softmax(dim=-1).numpy(), rng)
        rewards[:, t], now = mdps.step(mdp, t, now, actions[:, t], rng)
    return rewards.sum(axis=1)


def _tokens(mdp: LayeredMDP, states, actions, returns_to_go) -> tuple[torch.Tensor, ...]:
    """What the network takes, from (N, T) integers: one-hot states and actions, returns-to-go in units of the
    horizon's largest return, timesteps and a mask without padding."""
    count, length = states.shape
    one_hot_states = F.one_hot(torch.from_numpy(states), mdp.num_states).float()
    one_hot_actions = F.one_hot(torch.from_numpy(actions), mdp.num_actions).float()
    asked = torch.from_numpy(np.ascontiguousarray(returns_to_go)).float()[..., None] / mdp.max_return
    timesteps = torch.arange(length).expand(count, length)
    return one_hot_states, one_hot_actions, asked, timesteps, torch.ones(count, length, dtype=torch.bool)
