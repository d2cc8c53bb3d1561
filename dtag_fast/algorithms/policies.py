"""What algorithms of policies share: making a sequence model, a step of its optimizer, the temperature."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor, nn

from dtag_fast.algorithms.base import Algorithm
from dtag_fast.algorithms.lamb import Lamb
from dtag_fast.algorithms.schedules import set_lr, warmup
from dtag_fast.algorithms.sequence import (
    check_lengths,
    resolve_return_scale,
    target_returns,
    window_sampler,
)
from dtag_fast.data import TrajectoryStore, WindowSampler
from dtag_fast.models import SequenceModel
from dtag_fast.models.sequence import SequenceConfig


class PolicyAlgorithm(Algorithm):
    """One network, `model`, trained by one loss: clipping, linear warm-up, one optimizer.

    Its config has lr, weight_decay, betas, warmup and max_grad_norm.
    """

    kind = "policy"

    def _train(self, model: nn.Module, optimizer: type[torch.optim.Optimizer], **settings) -> None:
        """Set model, exports, modules and optimizers; frozen parameters stay as they are."""
        c = self.config
        self.model = model.to(self.device)
        self.exports = self.modules = {"model": self.model}
        self.optimizers = {
            "model": optimizer(
                [p for p in self.model.parameters() if p.requires_grad],
                lr=self.scheduled(c.lr),
                betas=c.betas,
                weight_decay=c.weight_decay,
                capturable=self.capturable,
                **settings,
            )
        }

    def _descend(self, loss: Tensor) -> Tensor:
        """One step down the loss; the norm of its gradient before clipping, of the shape of loss."""
        c = self.config
        set_lr(self.optimizers["model"], c.lr * warmup(self._steps_made(), c.warmup))
        return self.step("model", loss, c.max_grad_norm)

    def _steps_made(self) -> int | float | Tensor:
        """Steps of this network so far, as the warm-up counts them."""
        return self.schedule_step


class SequenceAlgorithm(PolicyAlgorithm):
    """A policy over windows.

    Its config has the settings of its model under their names there, and those of its sampler.
    """

    def _sequence_model(
        self, model: type[SequenceModel], config: type[SequenceConfig], **settings: Any
    ) -> SequenceModel:
        """The model for the data, on the host; `settings` go before those of the algorithm's config."""
        c, data = self.config, self.data
        check_lengths(c.max_timestep, data)
        self.return_scale = resolve_return_scale(c, data)
        names = {field.name for field in dataclasses.fields(config)}
        shared = {f.name: getattr(c, f.name) for f in dataclasses.fields(c) if f.name in names}
        shared |= {"state_dim": data.state_dim, "action_dim": data.action_dim}
        shared |= {"discrete": data.discrete is not None}
        bounds = (data.action_low, data.action_high) if data.discrete is None else ()
        return model(
            config(**{**shared, "return_scale": self.return_scale, **settings}),
            data.state_mean,
            data.state_std,
            *bounds,
            attention=c.attention,
        )

    def make_sampler(self, store: TrajectoryStore) -> WindowSampler:
        """Windows as the config asks for them."""
        return window_sampler(self, store)

    def facts(self) -> dict[str, Any]:
        """Scales as resolved, the steps that the model looks at when it acts, and what to ask it for."""
        c = self.config
        asked = {"target_returns": target_returns(c, self.data)} if hasattr(c, "target_returns") else {}
        return {
            "return_scale": self.return_scale,
            "reward_scale": c.reward_scale,
            "reward_shift": c.reward_shift,
            "context_len": self.model.config.context_len,
            **asked,
        }


class EntropyConstrained(SequenceAlgorithm):
    """A policy whose loss has -lambda H, and lambda follows d/d(log lambda) of lambda (H - H_target).

    H_target = -A. Trained by LAMB. The config also has eps, initial_temperature and temperature_lr.

    The entropy of discrete actions is never below 0: they are not constrained, and there is no lambda.
    """

    def _train_entropy_constrained(self, model: SequenceModel) -> None:
        c = self.config
        self._train(model, Lamb, eps=c.eps)
        if self.data.discrete is not None:
            return
        self.log_temperature = torch.tensor(
            math.log(c.initial_temperature), device=self.device, requires_grad=True
        )
        self.optimizers["temperature"] = torch.optim.Adam(
            [self.log_temperature], lr=c.temperature_lr, fused=True, capturable=self.capturable
        )

    def _move_temperature(self, temperature: Tensor, entropy: Tensor) -> None:
        """The dual step: more weight on the entropy while it is below its target.

        Args:
            temperature: lambda, made from log_temperature. entropy: H, without a gradient.
        """
        self.step("temperature", temperature * (entropy + self.data.action_dim))

    def extra_tensors(self) -> dict[str, Tensor]:
        """log lambda, where there is one."""
        return {} if self.data.discrete is not None else {"log_temperature": self.log_temperature}
