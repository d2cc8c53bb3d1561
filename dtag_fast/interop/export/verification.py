"""What an exported file computes, compared with what this package does on the same random windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dtag_fast.interop.export.acting import Acting
from dtag_fast.models.autotuned_decision_transformer import AutotunedDecisionTransformer
from dtag_fast.models.policies import StatePolicy
from dtag_fast.ops.refine.reference import evaluate_program, reduce_members
from dtag_fast.ops.refine.refiner import Refiner

TOLERANCE = 1e-4  # of an action, in halves of its range; of a return, in return scales
BATCHES = (1, 3, 60)
MOST_APART = 0.05  # of the rows, under Action Gradient alone

Run = Callable[[dict[str, np.ndarray]], Sequence[np.ndarray]]


@dataclass(frozen=True)
class Verification:
    """How far a runtime's outputs are from this package's.

    Attributes:
        runtime: what ran the file. rows: how many windows it was given.
        largest_difference: of an action, in halves of its range, over the rows that are not apart.
        rows_apart: rows further away than `TOLERANCE`. Only Action Gradient may have some: where rounding
            decides which of two iterates of equal Q is the best one, and, in at most a twentieth of the rows,
            on which side of a kink of Q an iterate lies: two correct walks then go separate ways.
    """

    runtime: str
    rows: int
    largest_difference: float
    rows_apart: int

    def __str__(self) -> str:
        told = f"{self.runtime}: {self.rows} windows, largest difference {self.largest_difference:.1e}"
        return told + (f", {self.rows_apart} of them ended elsewhere by rounding" if self.rows_apart else "")


def verify(acting: Acting, run: Run, runtime: str, tolerance: float = TOLERANCE) -> Verification:
    """Compare.

    Args:
        acting: what was exported. run: inputs by name -> outputs in order. runtime: its name.

    Raises:
        ValueError: the outputs of a row differ by more than `tolerance`; under Action Gradient, those of more
            than a twentieth of the rows, not counting actions of the same Q.
    """
    differences, as_good = [], []
    for seed, batch in enumerate(BATCHES):
        inputs = random_inputs(acting, batch, seed)
        expected, found = expected_outputs(acting, inputs), [np.asarray(x) for x in run(inputs)]
        differences.append(_differences(acting, expected, found))
        as_good.append(_equal_q(acting, inputs, expected[0], found[0], tolerance))
    rows, apart = np.concatenate(differences), np.concatenate(differences) > tolerance
    wrong = apart & ~np.concatenate(as_good)
    result = Verification(runtime, len(rows), float(rows[~apart].max(initial=0.0)), int(apart.sum()))
    allowed = MOST_APART * len(rows) if acting.program is not None else 0
    if wrong.sum() > allowed:
        why = "the file was not kept"
        if acting.program is not None:
            why += "; where rounding alone decides such long walks, smaller or fewer steps help"
        raise ValueError(
            f"{runtime}: {wrong.sum()} of {result.rows} windows differ from this package's by more "
            f"than {tolerance:g} of half an action's range, the furthest by {rows.max():.2g}; {why}"
        )
    return result


def _differences(acting: Acting, expected: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> np.ndarray:
    """The largest of each row (B,), infinite where a number is not finite."""
    discrete, scale = acting.policy.info.discrete_actions is not None, acting.policy.info.return_scale
    low, high = (0.0, 2.0) if discrete else acting.bounds
    units = ((high - low) / 2, scale)[: len(expected)]
    parts = [np.abs(x - y) / unit for x, y, unit in zip(expected, found, units, strict=True)]
    apart = np.concatenate(parts, axis=1)
    return np.where(np.isfinite(apart), apart, np.inf).max(axis=1)


def _equal_q(acting: Acting, inputs, expected: np.ndarray, found: np.ndarray, tolerance: float) -> np.ndarray:
    """(B,) whether both actions have one Q within rounding; False without Action Gradient."""
    if acting.program is None:
        return np.zeros(len(expected), bool)
    states = _present(acting, {name: torch.from_numpy(x) for name, x in inputs.items()}).double()
    q, other = (
        reduce_members(
            evaluate_program(acting.program, states, torch.from_numpy(x).double()),
            0 if acting.program.reduction else acting.options.reduce,
        )
        for x in (expected, found)
    )
    return ((q - other).abs() <= tolerance * q.abs()).numpy()


def random_inputs(acting: Acting, batch: int, seed: int) -> dict[str, np.ndarray]:
    """Windows of all ages, like those of the training data in mean and deviation; the first is of age 1."""
    info, model, rng = acting.policy.info, acting.policy.model, np.random.default_rng(seed)
    mean, std = np.asarray(info.state_mean), np.asarray(info.state_std)
    if isinstance(model, StatePolicy):
        return {"states": (mean + std * rng.standard_normal((batch, len(mean)))).astype(np.float32)}
    k, padding = model.config.context_len, model.padding
    states = mean + std * rng.standard_normal((batch, k, len(mean)))
    if info.discrete_actions is not None:
        actions = np.eye(info.action_dim)[rng.integers(info.action_dim, size=(batch, k))]
    else:
        actions = rng.uniform(*acting.bounds, (batch, k, info.action_dim))
    ages = np.concatenate([[1], rng.integers(1, 2 * k + 1, batch - 1)])[:, None]
    lengths, columns = np.minimum(ages, k), np.arange(k)
    mask = columns < lengths if padding == "right" else columns >= k - lengths
    first = rng.integers(0, max(model.config.max_timestep - k, 1), (batch, 1)) * (lengths == k)
    offset = columns if padding == "right" else columns - (k - lengths)
    timesteps = np.where(mask, np.minimum(first + offset, model.config.max_timestep - 1), 0)
    returns = rng.uniform(-1, 1, (batch, k, 1)) * max(abs(info.best_return), info.return_scale)
    found = {
        "states": states.astype(np.float32),
        "actions": actions.astype(np.float32),
        "returns_to_go": returns.astype(np.float32),
        "timesteps": timesteps.astype(np.int64),
        "mask": mask,
    }
    return {one.name: found[one.name] for one in acting.inputs}


def expected_outputs(acting: Acting, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """What the policy's own `act` and `Refiner` give for them."""
    policy, given = acting.policy, {name: torch.from_numpy(x) for name, x in inputs.items()}
    model, states = policy.model, given["states"]
    with torch.inference_mode():
        if isinstance(model, StatePolicy):
            actions, predicted = model.act(states), None
        else:
            actions, predicted = model.act(
                model.normalize_states(states),
                given["actions"],
                _return_tokens(acting, given),
                given["timesteps"],
                given["mask"],
                trim=False,
            )
    outputs = [actions.float()]
    if acting.program is not None:
        outputs = [_refined(acting, _present(acting, given), actions.float())]
    if predicted is not None:
        outputs.append(predicted * model.config.return_scale)
    return [output.numpy() for output in outputs]


def _present(acting: Acting, given: dict[str, Tensor]) -> Tensor:
    """(B, S) the state that each row acts on."""
    states = given["states"]
    if isinstance(acting.policy.model, StatePolicy):
        return states
    last = torch.where(given["mask"], torch.arange(states.shape[1]), 0).amax(1)
    return states[torch.arange(len(states)), last]


def _return_tokens(acting: Acting, given: dict[str, Tensor]) -> Tensor:
    model = acting.policy.model
    if isinstance(model, AutotunedDecisionTransformer):
        return model.prompts(given["states"])
    return given["returns_to_go"] / model.config.return_scale


def _refined(acting: Acting, states: Tensor, actions: Tensor) -> Tensor:
    names = ("optimizer", "reduce", "gradient", "radius", "select")
    options = {name: getattr(acting.options, name) for name in names}
    refiner = Refiner(
        acting.program,
        steps=acting.setting.steps,
        lr=acting.setting.lr,
        bounds=acting.bounds,
        precision="highest",
        **options,
    )
    return refiner(states, actions)
