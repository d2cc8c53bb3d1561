"""What every algorithm offers to the training loop, and what it learns about the data before it starts."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from dtag_fast.algorithms import parallel
from dtag_fast.algorithms.lamb import clip_
from dtag_fast.algorithms.trained_critic import TrainedCritic
from dtag_fast.data import DiscreteActions, TrajectoryStore
from dtag_fast.ops.per_seed import Generators

if TYPE_CHECKING:
    from dtag_fast.algorithms.stacking import Stack


@dataclass(frozen=True, eq=False)
class DataSpec:
    """The facts about a dataset that shape networks and scales."""

    state_dim: int
    action_dim: int
    state_mean: np.ndarray  # (S,) float32
    state_std: np.ndarray  # (S,) float32, deviation + 1e-6
    action_low: list[float]  # (A,); empty for discrete actions
    action_high: list[float]  # (A,); empty for discrete actions
    returns: np.ndarray  # (E,) float64, undiscounted return of each episode
    lengths: np.ndarray  # (E,) int64, steps of each episode
    horizon: int  # steps of the longest episode, in the data or by the environment's time limit
    discrete: DiscreteActions | None = None  # the space of discrete actions, whose rows are one-hot

    @classmethod
    def of(cls, store: TrajectoryStore) -> DataSpec:
        """Read them from a store.

        Raises:
            ValueError: actions are continuous and its metadata names no bounds.
        """
        discrete, bounds = store.discrete_actions, {"action_low": [], "action_high": []}
        for key in bounds if discrete is None else ():
            if store.metadata.get(key) is None:
                raise ValueError(
                    f"metadata: expected {key!r}, one number per action dimension, got "
                    f"{store.metadata.get(key)!r}; a policy needs to know the bounds of its actions"
                )
            bounds[key] = [float(x) for x in store.metadata[key]]
        mean, std = store.state_statistics()
        return cls(
            state_dim=store.state_dim,
            action_dim=store.action_dim,
            state_mean=mean,
            state_std=std,
            **bounds,
            returns=store.episode_returns,
            lengths=store.episode_lengths,
            horizon=max(int(store.episode_lengths.max()), store.metadata.get("max_episode_steps") or 0),
            discrete=discrete,
        )


class Algorithm(ABC):
    """Networks, their optimizers and one update. Knows nothing of files, environments and loggers.

    Attributes:
        name: as in the registry. kind: what a user gets out of it, a "policy" or a "critic".
        takes_discrete: whether it learns discrete actions; the others refuse such data.
        exports: networks a checkpoint offers to others, by file name: "model" (a policy), "critic", "value"
            (V, beside a critic).
        modules: all networks, the exported ones included. optimizers: all optimizers.
        generator: source of dropout noise and drawn actions; `Generators` where seeds are stacked.
        updates_done: number of updates so far.
        stack: what makes it train several seeds at once (stacking.py); None in a run of one seed.
        trained: what it learns from besides the data, frozen; None where it learns from nothing else.
        capturable: whether all that changes from update to update lies on the device, learning rates and
            counts too, so that a CUDA graph of updates can be replayed.
        schedule_step: updates_done as schedules take it; when capturable, a 0-dim float64 tensor.
        period: `update` may do different things according to updates_done % period, TD3's delayed policy say;
            a graph is then captured for every place in the period.

    Args:
        config, data: the algorithm's settings and the facts about its dataset.
        seed: of weights and dropout. device: where it trains. capturable: see above.
        critic: where `reason_for_critic` names one.

    Raises:
        ValueError: a critic is missing, or given and not used; the data has discrete actions and the
            algorithm is for continuous ones.
    """

    name: ClassVar[str]
    kind: ClassVar[Literal["policy", "critic"]]
    takes_discrete: ClassVar[bool] = False
    exports: dict[str, nn.Module]
    modules: dict[str, nn.Module]
    optimizers: dict[str, Optimizer]
    period: int = 1
    stack: Stack | None = None

    def __init__(
        self,
        config: Any,
        data: DataSpec,
        *,
        seed: int = 0,
        device: str | torch.device = "cpu",
        capturable: bool = False,
        critic: TrainedCritic | None = None,
    ):
        if data.discrete is not None and not self.takes_discrete:
            raise ValueError(
                f"actions: {self.name} learns continuous actions, those of the data are {data.discrete}; "
                "discrete ones are learned by dt and reinformer"
            )
        self.config, self.data, self.capturable = config, data, capturable
        self.device = torch.device(device)
        self.trained = self._freeze(critic)
        noise = "dropout" if parallel.rank() == 0 else f"dropout of process {parallel.rank()}"
        self.generator: Generator | Generators = Generator(self.device).manual_seed(stream_seed(seed, noise))
        self.updates_done = 0
        self.schedule_step: int | Tensor = (
            torch.zeros((), dtype=torch.float64, device=self.device) if capturable else 0
        )
        with seeded_initialisation(stream_seed(seed, "weights")):
            self._build()

    def reason_for_critic(self) -> str | None:
        """The setting that makes it learn from a trained critic, in words; None where none is used."""
        return None

    def _freeze(self, critic: TrainedCritic | None) -> TrainedCritic | None:
        reason = self.reason_for_critic()
        if reason is not None and critic is None:
            raise ValueError(
                f"critic: {self.name} with {reason} learns from a trained critic, got None; give a run that "
                "trained one"
            )
        if reason is None and critic is not None:
            raise ValueError(
                f"critic: {self.name} with these settings learns from none; leave it out, or set what uses "
                "it (q_weight in dt and reinformer)"
            )
        return None if critic is None else critic.frozen(self.device)

    @abstractmethod
    def _build(self) -> None:
        """Create exports, modules and optimizers from self.config and self.data."""

    @abstractmethod
    def make_sampler(self, store: TrajectoryStore):
        """An object whose `sample(generator)` gives the batches `update` takes, on `self.device`."""

    @abstractmethod
    def update(self, batch) -> dict[str, Tensor]:
        """One gradient step, ended by `count_update`; returns 0-dim tensors to log, (N,) of N stacked seeds.

        What is not element by element of the parameters goes through `each`. Never waits for the device. When
        capturable, nothing but `updates_done` changes on the host, and nothing but its place in the `period`
        decides what is computed.
        """

    @abstractmethod
    def validate(self, batch) -> dict[str, Tensor]:
        """Errors on a batch that was not trained on, 0-dim tensors; without dropout, and changes nothing.

        Of one seed: those of a stack are asked one by one.
        """

    def explain(self) -> str | None:
        """How an update is computed and why, in words; None where there is one way, operator by operator."""
        return None

    def why_in_turn(self) -> str | None:
        """Why seeds that are trained together are updated in turn and not stacked, or None.

        For an update of one seed that is faster than its share of a stack's. Not asked of a capturable
        learner: it is stacks that are captured.
        """
        return None

    def each(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """`fn`, or where N seeds are stacked what computes it for each of them at once.

        Args:
            fn: of tensors, to tensors, in any containers; reads the networks and `generator` of self. Where
                seeds are stacked all of them have a first axis (N, ...) outside of it and not inside. What
                it takes from elsewhere is the same of all seeds.
        """
        return fn if self.stack is None else self.stack.each(fn)

    def step(self, name: str, loss: Tensor, max_grad_norm: float | None = None) -> Tensor | None:
        """One step of the optimizer `name`; no parameters but its own take a gradient from the loss.

        Args:
            loss: as `backward` takes it.
            max_grad_norm: global L2 norm above which the gradient is scaled down; None for no clip.
        Returns:
            The norm before the clip, of the shape of loss; None without one.
        """
        optimizer, norm = self.optimizers[name], None
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.backward(loss, parameters)
        if max_grad_norm is not None:
            grads = [p.grad for p in parameters]
            norm = clip_(grads, max_grad_norm, self.capturable, self.stack is not None)
        optimizer.step()
        optimizer.zero_grad()
        return norm

    def backward(self, loss: Tensor, parameters: list[Tensor]) -> None:
        """Add the gradients of a loss to some parameters, averaged over the processes that train together.

        Args:
            loss: 0-dim, or (N,) of N stacked seeds, each of which depends on its own parameters alone.
        """
        autocast = self.device.type in ("cpu", "cuda") and torch.is_autocast_enabled(self.device.type)
        outside = torch.autocast(self.device.type, enabled=False) if autocast else contextlib.nullcontext()
        with outside:  # in the types of the forward pass
            (loss if self.stack is None else loss.sum()).backward(inputs=parameters)
        parallel.average_gradients(parameters)

    def count_update(self) -> None:
        """Count an update as made."""
        self.updates_done += 1
        self.schedule_step += 1

    def scheduled(self, lr: float) -> float | Tensor:
        """A learning rate that `set_lr` will change, as an optimizer of this algorithm takes it."""
        return torch.tensor(lr, dtype=torch.float32, device=self.device) if self.capturable else lr

    def facts(self) -> dict[str, Any]:
        """What a checkpoint must say besides the config: scales as resolved from the data (JSON values)."""
        return {}

    def extra_tensors(self) -> dict[str, Tensor]:
        """Trained tensors that belong to no module; restored in place when a run is resumed."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """All that changes during training but the exported networks, which have files of their own."""
        return {
            "updates_done": self.updates_done,
            "modules": {k: m.state_dict() for k, m in self.modules.items() if k not in self.exports},
            "optimizers": {k: o.state_dict() for k, o in self.optimizers.items()},
            "generator": self.generator.get_state(),
            "extra": {k: t.detach() for k, t in self.extra_tensors().items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave; the exported networks are loaded separately."""
        self.updates_done = state["updates_done"]
        self.schedule_step += self.updates_done - self.schedule_step  # in place where it is a tensor
        for name, module_state in state["modules"].items():
            self.modules[name].load_state_dict(module_state)
        for name, optimizer_state in state["optimizers"].items():
            load_optimizer(self.optimizers[name], optimizer_state)
        self.generator.set_state(state["generator"])
        with torch.no_grad():
            for name, tensor in self.extra_tensors().items():
                tensor.copy_(state["extra"][name])


def load_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """load_state_dict that leaves alone how the optimizer counts and where its learning rate lies.

    These belong to the process and not to the run: a run may go on with another choice of `capturable`. The
    learning rate follows from the config and the number of updates.
    """
    groups = [
        saved | {key: own[key] for key in ("lr", "capturable", "fused") if key in own}
        for saved, own in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict(state | {"param_groups": groups})


def stream_seed(seed: int, stream: str) -> int:
    """Seed of one of a run's independent random streams, e.g. "weights", "dropout", "batches"."""
    return int(np.random.SeedSequence([seed, *stream.encode()]).generate_state(1, np.uint64)[0])


@contextlib.contextmanager
def seeded_initialisation(seed: int) -> Iterator[None]:
    """Weights created inside come from `seed`; the caller's global generator is left as it was."""
    before = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(before)
