"""Training loops as they are usually written: a DataLoader that collates, `.item()` at every step."""

import copy
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from dtag_fast.data import TrajectoryStore
from dtag_fast.models import DecisionTransformer, GaussianPolicy, Reinformer, TwinCritic
from dtag_fast.models.critics import ValueNet

Step = Callable[[], float]


class Trajectories(Dataset):
    """One random window of an episode at a time, sliced and padded in NumPy."""

    def __init__(self, store: TrajectoryStore, context_len: int, scale: float):
        self.context_len, self.items, self.rng = context_len, [], np.random.default_rng(0)
        mean, std = store.state_statistics()
        for index in range(store.num_episodes):
            e = store.episode(index)
            returns = np.cumsum(e.rewards[::-1])[::-1] / scale
            self.items.append(((e.observations[:-1] - mean) / std, e.actions, returns.astype(np.float32)))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        states, actions, returns = self.items[index]
        length, k = len(actions), self.context_len
        start = self.rng.integers(0, max(length - k, 0) + 1)
        cut = [torch.from_numpy(x[start : start + k].copy()) for x in (states, actions, returns[:, None])]
        real = len(cut[0])
        padded = [torch.cat([x, torch.zeros(k - real, *x.shape[1:])]) for x in cut]
        mask = torch.cat([torch.ones(real), torch.zeros(k - real)])
        return (*padded, torch.arange(start, start + k), mask)


def windows(
    store: TrajectoryStore, context_len: int, scale: float, batch_size: int
) -> Iterator[list[Tensor]]:
    """Batches for ever; the loader starts anew where its epoch ends. There must be a batch of episodes."""
    loader = DataLoader(Trajectories(store, context_len, scale), batch_size, shuffle=True, drop_last=True)
    assert len(loader)
    while True:
        yield from loader


def decision_transformer(
    model: DecisionTransformer, store: TrajectoryStore, scale: float, batch: int
) -> Step:
    """MSE on the real steps, clipping, AdamW, a warm-up by LambdaLR."""
    batches = windows(store, model.config.context_len, scale, batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 10_000, 1))

    def step() -> float:
        states, actions, returns, times, mask = next(batches)
        mask = mask.bool()
        predicted = model(states, actions, returns, times, mask).actions
        loss = F.mse_loss(predicted[mask], actions[mask])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()
        scheduler.step()
        return loss.detach().cpu().item()

    return step


class PlainLamb(torch.optim.Optimizer):
    """LAMB (You et al. 2020), one parameter after the other."""

    def __init__(self, params, lr: float, weight_decay: float):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state |= {"step": 0, "m": torch.zeros_like(p), "v": torch.zeros_like(p)}
                state["step"] += 1
                m, v = state["m"], state["v"]
                m.mul_(0.9).add_(p.grad, alpha=0.1)
                v.mul_(0.999).addcmul_(p.grad, p.grad, value=0.001)
                first, second = m / (1 - 0.9 ** state["step"]), v / (1 - 0.999 ** state["step"])
                update = first / (second.sqrt() + 1e-8) + group["weight_decay"] * p
                norms = p.norm(), update.norm()
                trust = (norms[0] / norms[1]).item() if all(norms) else 1.0
                p.add_(update, alpha=-group["lr"] * trust)


def reinformer(model: Reinformer, store: TrajectoryStore, scale: float, batch: int) -> Step:
    """Expectile of the return, likelihood and entropy of the action, LAMB, a dual step on the temperature."""
    batches = windows(store, model.config.context_len, scale, batch)
    optimizer = PlainLamb(model.parameters(), lr=1e-4, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 5_000, 1))
    log_temperature = torch.tensor(np.log(0.1), dtype=torch.float32, requires_grad=True)
    temperature_optimizer = torch.optim.Adam([log_temperature], lr=1e-4)

    def step() -> float:
        states, actions, returns, times, mask = next(batches)
        mask = mask.bool()
        out = model(states, actions, returns, times, mask)
        real, errors = returns[mask], (returns - out.returns)[mask] / returns[mask].abs().mean()
        weights = torch.where(errors > 0, 0.99, 0.01) * torch.ones_like(real)
        distribution = torch.distributions.Normal(out.actions, out.log_std.exp().expand_as(out.actions))
        nll = -distribution.log_prob(actions).sum(dim=2)[mask].mean()
        entropy = distribution.entropy().sum(dim=2).mean()
        temperature = log_temperature.exp()
        loss = (weights * errors**2).mean() + nll - temperature.detach() * entropy
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()
        temperature_optimizer.zero_grad()
        (temperature * (entropy - -actions.shape[-1]).detach()).backward()
        temperature_optimizer.step()
        scheduler.step()
        return loss.detach().cpu().item()

    return step


class PlainCritic(nn.Module):
    """The Q functions one after the other, layer by layer."""

    def __init__(self, critic: TwinCritic):
        super().__init__()
        self.normalizer, self.members = critic.normalizer, critic.members

    def forward(self, states: Tensor, actions: Tensor) -> list[Tensor]:
        inputs = torch.cat((self.normalizer(states), actions), dim=-1)
        return [member(inputs) for member in self.members]


class PlainPolicy(nn.Module):
    """A Gaussian policy, layer by layer."""

    def __init__(self, policy: GaussianPolicy):
        super().__init__()
        layers = [part for layer in policy.layers for part in (layer, nn.ReLU())]
        self.mean = nn.Sequential(policy.normalizer, *layers, policy.mean_head, nn.Tanh())
        self.log_std = policy.action_log_std

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        return self.mean(states), self.log_std.clamp(-5.0, 2.0)


def iql(
    critic: TwinCritic, value: ValueNet, policy: GaussianPolicy, store: TrajectoryStore, batch: int
) -> Step:
    """V, policy and Q in turn, each with an Adam of its own; transitions from a replay buffer in NumPy.

    Actions are between -1 and 1.
    """
    critic, policy = PlainCritic(critic), PlainPolicy(policy)
    value = nn.Sequential(value.normalizer, value.net)
    rows, rng = store.state_rows, np.random.default_rng(0)
    buffer = (
        store.observations[rows],
        np.array(store.actions),
        np.array(store.rewards)[:, None],
        store.observations[rows + 1],
        store.terminations[:, None].astype(np.float32),
    )
    target = copy.deepcopy(critic).requires_grad_(False)
    optimizers = [torch.optim.Adam(m.parameters(), lr=3e-4) for m in (value, policy, critic)]
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizers[1], 1_000_000)

    def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> float:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    def step() -> float:
        chosen = rng.integers(0, len(rows), size=batch)
        states, actions, rewards, next_states, dones = (torch.tensor(x[chosen]) for x in buffer)
        with torch.no_grad():
            next_v = value(next_states)
            q = torch.min(*target(states, actions))
        advantage = q - value(states)
        descend(optimizers[0], torch.mean(torch.abs(0.7 - (advantage < 0).float()) * advantage**2))
        weights = torch.exp(3.0 * advantage.detach()).clamp(max=100.0).squeeze(-1)
        mean, log_std = policy(states)
        log_prob = torch.distributions.Normal(mean, log_std.exp()).log_prob(actions).sum(-1)
        descend(optimizers[1], -(weights * log_prob).mean())
        schedule.step()
        targets = rewards + (1.0 - dones) * 0.99 * next_v
        loss = sum(F.mse_loss(q, targets) for q in critic(states, actions))
        logged = descend(optimizers[2], loss)
        with torch.no_grad():
            for slow, fast in zip(target.parameters(), critic.parameters(), strict=True):
                slow.copy_(0.995 * slow + 0.005 * fast)
        return logged

    return step


def parameters_of(*networks: nn.Module) -> int:
    """Numbers that they hold."""
    return sum(p.numel() for network in networks for p in network.parameters())
