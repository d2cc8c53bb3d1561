"""The distribution that a stochastic policy draws its action from, at the present step of its rollouts."""

import numpy as np
import torch
from torch import Tensor

from dtag_fast.models import GaussianPolicy, OnlineDecisionTransformer, Reinformer, TanhGaussianPolicy
from dtag_fast.models.decoder import Decoder
from dtag_fast.models.online_decision_transformer import SquashedGaussian
from dtag_fast.rollout.batches import Step, fill_up
from dtag_fast.rollout.policy import SequencePolicy
from dtag_fast.rollout.reactive import ReactivePolicy

# Models of continuous actions with `drawn`, which makes actions of means, log deviations and noise.
STOCHASTIC = (Reinformer, OnlineDecisionTransformer, GaussianPolicy, TanhGaussianPolicy)


def squashed_gaussian(policy: SequencePolicy, decoder: Decoder | None, step: Step) -> SquashedGaussian:
    """Of an OnlineDecisionTransformer at a step that has begun, (R, A) each.

    Args:
        decoder: with deviations, over the policy's rollouts; None goes over their windows.
    """
    if decoder is not None and decoder.compiled:
        return policy.model.distribution_of(*policy.decoded(decoder, step)[0].chunk(2, dim=-1))
    states, *others = map(policy.transfers.to_device, policy.history.window(step.rows))
    states = policy.model.normalize_states(states)
    window = policy.model.window(states, *others, trim=not policy.batch_invariant)
    found = policy.model.distribution(*window[:5])
    everyone = torch.arange(len(step.rows), device=policy.device)
    return SquashedGaussian(*(part[everyone, window.last] for part in found))


class OwnDistribution:
    """What the model of a policy says of the rollouts that have just acted.

    On a CPU a rollout's numbers do not depend on the others, as far as its actions do not.

    Args:
        policy: of one of the models in STOCHASTIC. An OnlineDecisionTransformer gets a second decoder, whose
            step tells the deviations too, so that the policy's own action keeps its bits.
    """

    def __init__(self, policy: SequencePolicy | ReactivePolicy):
        self.policy, self._decoder = policy, None
        if isinstance(policy.model, OnlineDecisionTransformer) and policy.decoder is not None:
            precision = policy.decoder.precision
            decoder = Decoder(policy.model, policy.num_envs, precision, deviations=True)
            self._decoder = decoder if decoder.compiled else None

    def reset(self, row: int) -> None:
        """A new episode begins in slot `row`; it is then asked for at every step, or at none."""
        if self._decoder is not None:
            self._decoder.reset(torch.tensor([row], device=self.policy.device))

    @torch.inference_mode()
    def draw(
        self,
        rows: np.ndarray,
        observations: np.ndarray,
        actions: np.ndarray,
        counts: np.ndarray,
        noise: np.ndarray,
    ) -> np.ndarray:
        """Actions (sum of counts, A) inside the bounds, counts (R,) of them for each of the slots `rows`.

        Args:
            observations: (R, S) raw, what the slots saw. actions: (R, A), the policy's own for it.
            noise: (sum of counts, A), in deviations.
        """
        owner = np.repeat(np.arange(len(rows)), counts)
        batch = self._filled(np.arange(len(owner)))
        mean, log_std = self._distribution(rows, observations, actions)
        of = torch.from_numpy(owner[batch]).to(mean.device)
        log_std = log_std if log_std.ndim == 1 else log_std[of]
        drawn = self.policy.model.drawn(mean[of], log_std, self._tensor(noise[batch]))
        return self.policy.transfers.to_host(drawn[: len(owner)].float())

    def _distribution(self, rows, observations, actions) -> tuple[Tensor, Tensor]:
        """Means (R, A), or more, and log deviations, (R, A) or (A,)."""
        policy, model = self.policy, self.policy.model
        if isinstance(model, Reinformer):  # its action is the mean
            return self._tensor(actions), model.log_std
        batch = self._filled(np.arange(len(rows)))
        if isinstance(policy, ReactivePolicy):
            return model(self._tensor(observations[batch].astype(np.float32)))
        places = np.searchsorted(policy.step.rows, rows)
        if self._decoder is None:
            return squashed_gaussian(policy, None, _part(policy.step, places[batch]))
        policy.update_decoder(self._decoder)
        return squashed_gaussian(policy, self._decoder, _part(policy.step, places))

    def _filled(self, rows: np.ndarray) -> np.ndarray:
        return fill_up(rows) if self.policy.batch_invariant else rows

    def _tensor(self, array: np.ndarray) -> Tensor:
        return self.policy.transfers.to_device(array)


def _part(step: Step, places: np.ndarray) -> Step:
    return Step(*(part[places] for part in step))
