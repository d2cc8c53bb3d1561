"""The policy of N rollouts and Action Gradient on its actions as one CUDA graph.

A step is then one copy to the device, one replay and one copy back, whatever the number of kernels.
"""

import numpy as np
import torch

from dtag_fast.rollout.guided import GuidedPolicy
from dtag_fast.rollout.policy import SequencePolicy
from dtag_fast.rollout.reactive import ReactivePolicy
from dtag_fast.rollout.refinement import Refined, Refinement


def why_not_captured(
    policy: SequencePolicy | ReactivePolicy | GuidedPolicy, refinement: Refinement | None
) -> str | None:
    """Why a step of these cannot be one CUDA graph, or None."""
    if policy.device.type != "cuda":
        return f"CUDA graphs need a GPU, the policy is on {policy.device}"
    if isinstance(policy, ReactivePolicy):
        return "the policy looks at the present state alone: captured steps are those of a sequence policy"
    if isinstance(policy, GuidedPolicy):
        return "a guide and a learner act in one batch"
    if policy.decoder is None:
        return "the policy goes over whole windows (incremental=False), whose shapes change"
    if policy.candidates is not None:
        return "candidates are drawn and chosen on the host"
    config = policy.model.config
    return None if refinement is None else refinement.why_not_captured(config.state_dim, config.action_dim)


class CapturedStep:
    """Acts as `policy.act` followed by `refinement` does, within rounding.

    The graph goes over the whole window of every rollout; those that are not active are computed with the
    others and not looked at. Weights may change between steps: they are read where they lie.

    Args:
        policy: its decoder is used, its history kept up to date. refinement: None for the policy's own
            actions.
        capture: False computes the same without a graph.
    """

    def __init__(self, policy: SequencePolicy, refinement: Refinement | None, capture: bool = True):
        self.policy, self.refinement = policy, refinement
        config, n = policy.model.config, policy.num_envs
        s, a = config.state_dim, config.action_dim
        # In: states, previous actions, return to go, timestep; the four `numbers` of Action Gradient. Out:
        # actions, predicted return, refined actions, q_0, q_best.
        self._columns, self._results = (
            np.cumsum(widths)[:-1].tolist() for widths in ([s, a, 1, 1, 1, 1, 1, 1], [a, 1, a, 1, 1])
        )
        on_gpu = policy.device.type == "cuda"
        self._host_in = torch.zeros(n, s + a + 6, pin_memory=on_gpu)
        self._host_out = torch.zeros(n, 2 * a + 3, pin_memory=on_gpu)
        self._in, self._out = (x.to(policy.device, copy=True) for x in (self._host_in, self._host_out))
        self._capture, self._graph = capture, None
        self._numbers: object = None  # the critic's, as refine has prepared them
        self._captured_at: list = []

    def act(self, observations: np.ndarray, active: np.ndarray, settings: np.ndarray) -> Refined:
        """Actions for the active rollouts.

        Args:
            observations: (N, S) raw states. active: (N,) bool. settings: (N,) positions in the refinement's
                list; not read without one.
        Returns:
            Of the active rows, in order; q_0 and q_best are zero without a refinement.
        Raises:
            ValueError: as `SequencePolicy.act`.
        """
        policy = self.policy
        later = np.flatnonzero(~active)
        step = policy.begin(observations, active)
        policy.update_decoder(policy.decoder)

        states, previous, returns, timesteps, *numbers = np.split(
            self._host_in.numpy(), self._columns, axis=1
        )
        states[step.rows], previous[step.rows] = step.states, step.previous_actions
        returns[step.rows], timesteps[step.rows, 0] = step.returns_to_go, step.timesteps
        # What the others write goes to places that their own next step writes again.
        previous[later] = policy.history.previous_actions(later)
        timesteps[later, 0] = np.minimum(policy.history.lengths[later], policy.model.config.max_timestep - 1)
        states[later], numbers[0][later] = 0.0, 0.0  # no steps
        if self.refinement is not None:
            asked = self.refinement.numbers(settings[step.rows])
            for column, values in zip(numbers, asked, strict=True):
                column[step.rows, 0] = values
            self._numbers = self.refinement.update(states.shape[1], previous.shape[1])

        self.run()
        found = np.split(self._host_out.numpy()[step.rows], self._results, axis=1)
        chosen, predicted, refined, q_0, q_best = found
        policy.finish(step, chosen, predicted)
        return Refined(refined, q_0[:, 0], q_best[:, 0])

    def run(self) -> None:
        """One step of what lies in the staging memory of the host, to the results there."""
        self._in.copy_(self._host_in, non_blocking=True)
        if not self._capture:
            with torch.inference_mode():
                self._compute()
        else:
            with torch.cuda.device(self.policy.device):
                if self._graph is None or self._captured_at != self._places():
                    self._record()
                self._graph.replay()
        self._host_out.copy_(self._out, non_blocking=True)
        if self.policy.device.type == "cuda":
            torch.cuda.current_stream(self.policy.device).synchronize()

    def _compute(self) -> None:
        """One step of all rollouts from `_in` to `_out`, without a look at any number on the host."""
        model = self.policy.model
        states, previous, returns, timesteps, *numbers = self._in.tensor_split(self._columns, dim=1)
        actions, predicted = self.policy.decoder.slide(
            None,
            timesteps[:, 0].long(),
            previous,
            model.normalize_states(states),
            None if model.predicts_returns else returns,
            all_full=False,
        )
        refined, q = actions, torch.zeros_like(self._out[:, -2:])
        if self.refinement is not None:
            refined, q_0, q_best = self.refinement.on_device(states, actions, *(x[:, 0] for x in numbers))
            q = torch.stack((q_0, q_best), dim=1)
        self._out.copy_(torch.cat((actions, returns if predicted is None else predicted, refined, q), dim=1))

    def _record(self) -> None:
        """Capture `_compute`, after a few runs in which kernels are compiled and memory is found; what they
        write into the decoder's rings is what this step writes."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), torch.inference_mode():
            for _ in range(3):
                self._compute()
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.graph(self._graph):
            self._compute()
        self._captured_at = self._places()

    def _places(self) -> list:
        """Where the numbers lie that the graph reads."""
        return [id(self._numbers), *(p.data_ptr() for p in self.policy.model.parameters())]
