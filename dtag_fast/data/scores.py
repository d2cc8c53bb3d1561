"""Reference scores and normalised returns: 100 * (return - random) / (expert - random).

Table: D4RL (Fu et al., 2020), `d4rl/infos.py`. A dataset's own references go first and the source is always
named, so that numbers of two scales are never mixed in silence. Returns grow with the length of episodes,
so D4RL's references hold under the step limits that they were measured with (`d4rl_limits`) and no others,
and only where nothing changes rewards or physics (`d4rl_arguments`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from dtag_fast.data.d4rl_arguments import changes
from dtag_fast.data.d4rl_limits import PEN, limits_of
from dtag_fast.data.env_ids import bare_id
from dtag_fast.data.pointmaze import d4rl

# name -> (return of a random policy, return of the reference expert)
D4RL_REFERENCES = {
    "hopper": (-20.272305, 3234.3),
    "halfcheetah": (-280.178953, 12135.0),
    "walker2d": (1.629008, 4592.3),
    "ant": (-325.6, 3879.7),
    "maze2d-open-v0": (0.01, 20.66),
    "maze2d-umaze-v0": (0.94, 62.6),
    "maze2d-medium-v0": (5.77, 85.14),
    "maze2d-large-v0": (4.83, 191.99),
    "maze2d-umaze-dense-v0": (23.249793, 81.78995240126592),
    "maze2d-medium-dense-v0": (19.477620, 96.03474232952358),
    "maze2d-large-dense-v0": (27.388310, 215.09965671563742),
    "maze2d-umaze-v1": (23.85, 161.86),
    "maze2d-medium-v1": (13.13, 277.39),
    "maze2d-large-v1": (6.7, 273.99),
    "maze2d-open-dense-v0": (11.17817, 27.166538620695782),
    "maze2d-umaze-dense-v1": (68.537689, 193.66285642381482),
    "maze2d-medium-dense-v1": (44.264742, 297.4552547777125),
    "maze2d-large-dense-v1": (30.569041, 303.4857382709002),
    "antmaze": (0.0, 1.0),
    "pen": (96.262799, 3076.8331017826877),
    "door": (-56.512833, 2880.5693087298737),
    "hammer": (-274.856578, 12794.134825156867),
    "relocate": (-6.425911, 4233.877797728884),
    "kitchen": (0.0, 4.0),
}

# Names for which the table holds: pattern -> key. Environments whose protocol may differ from D4RL's
# (PointMaze, AntMaze, FrankaKitchen, sparse Adroit) are left out on purpose: their datasets carry their own
# references.
_NAMES = (
    (r"(Hopper|HalfCheetah|Walker2d|Ant)-v\d+", r"\1"),
    (r"AdroitHand(Pen|Door|Hammer|Relocate)-v\d+", r"\1"),
    (r"(hopper|halfcheetah|walker2d|ant)-[a-z-]+-v[0-2]", r"\1"),
    (r"(pen|door|hammer|relocate)-(?:human|cloned|expert)-v[01]", r"\1"),
    (r"(antmaze)-(?:umaze|medium|large)(?:-(?:play|diverse))?-v[0-2]", r"\1"),
    (r"(kitchen)-(?:complete|partial|mixed)-v0", r"\1"),
    (r"(maze2d-(?:open|umaze|medium|large)(?:-dense)?-v[01])", r"\1"),
    (r"mujoco/(hopper|halfcheetah|walker2d|ant)/[\w-]+-v\d+", r"\1"),
    (r"D4RL/(pen|door|hammer|relocate)/(?:human|cloned|expert)-v\d+", r"\1"),
)

_NOTES = (
    (
        r"Walker2d-v5|mujoco/walker2d/.*",
        "D4RL's walker2d is v2 (v4 alike); v5 changed foot friction and reward",
    ),
    (r"Ant-v5|mujoco/ant/.*", "D4RL's ant is v2 (v4 alike); v5 changed observation and reward"),
    (r"AdroitHandPen-v\d+|D4RL/pen/.*", "D4RL's pen episodes have 100 steps, Gymnasium-Robotics' 200"),
)

# wrapper of an environment -> how the task differs from D4RL's, whose references its data carry
_WRAPPER_NOTES = dict.fromkeys(
    d4rl.WRAPPERS.values(),
    "D4RL's maze2d ran on MuJoCo 2; here its ball, walls, goal and starts are played on the MuJoCo that is "
    "installed",
)


_OF_TABLE = "d4rl: "  # begins the source of references that are this table's
_NO_REFERENCES = "neither the dataset nor D4RL's table has references for this task"


@dataclass(frozen=True)
class Reference:
    """Returns that stand for a score of 0 and of 100.

    Attributes:
        ref_min, ref_max: undiscounted returns.
        source: "dataset..." (its metadata) or "d4rl: NAME" (this module's table).
        note: how the task differs from the one the references were measured in; "" where it does not.
    """

    ref_min: float
    ref_max: float
    source: str
    note: str = ""


@dataclass(frozen=True)
class NormalizedScore:
    """Scores in percent of the way from a random policy to an expert, with the references they were taken
    with.

    Attributes:
        score: float, or array of the shape of the returns.
        ref_min, ref_max, source, note: see Reference.
    """

    score: float | np.ndarray
    ref_min: float
    ref_max: float
    source: str
    note: str = ""


def reference_of(task: str | Mapping, source: str | None = None) -> Reference | None:
    """References of a task.

    D4RL's are not those of an environment with another step limit, or made with arguments or wrappers that
    may change its rewards or physics; one that nothing is known of counts as D4RL's. References that a
    dataset brings of its own hold for its environment.

    Args:
        task: metadata of a store, or the id of an environment ("Hopper-v4", "module:Hopper-v4"), of a D4RL
            dataset ("hopper-medium-v2") or of a Minari dataset ("mujoco/hopper/medium-v0").
        source: "dataset" or "d4rl" to allow only that one; None: the dataset's own first.

    Returns:
        None where there is no reference, or none that holds; `why_no_score` says which.
    """
    return _find(task, source)[0]


def why_no_score(task: str | Mapping, source: str | None = None) -> str:
    """Why a task has no normalised score, as a clause; "" where it has one. Arguments as `reference_of`."""
    return _find(task, source)[1]


def _find(task: str | Mapping, source: str | None) -> tuple[Reference | None, str]:
    """The references that hold, and why there are none ("" where there are)."""
    reference = _references_of(task, source)
    if reference is None:
        return None, _NO_REFERENCES
    if reference.source.startswith(_OF_TABLE) and not isinstance(task, str):
        why_not = _not_d4rls(reference.source.removeprefix(_OF_TABLE), task)
        return (None, why_not) if why_not else (reference, "")
    return reference, ""


def _not_d4rls(family: str, task: Mapping) -> str:
    """Why D4RL's references of a family do not hold for an environment; "" where they do."""
    of_family, limit, limits = f"D4RL's references of {family}", _limit_of(task), limits_of(family)
    if limit is not None and limits and limit not in limits:
        steps = " or ".join(map(str, limits))
        return f"{of_family} are returns within {steps} steps, an episode here has up to {limit}"
    made_with = changes(family, task.get("env_spec") or {})
    if made_with:
        return (
            f"{of_family} are of its own rewards and physics, the environment here is made with {made_with}"
        )
    return ""


def _limit_of(task: Mapping) -> int | None:
    """Step limit of a task; None where nothing is known of it."""
    spec = task.get("env_spec") or {}
    passed = (spec.get("kwargs") or {}).get("max_episode_steps")  # goes before the others in gymnasium.make
    return passed or spec.get("max_episode_steps") or task.get("max_episode_steps")


def _references_of(task: str | Mapping, source: str | None) -> Reference | None:
    """References of a task whatever its step limit and arguments."""
    if source not in (None, "dataset", "d4rl"):
        raise ValueError(f"source: expected 'dataset', 'd4rl' or None, got {source!r}")
    if isinstance(task, str):
        return None if source == "dataset" else _from_table(task)
    wrapper = (task.get("env_spec") or {}).get("wrapper")
    note = _WRAPPER_NOTES.get(wrapper, "")
    if source != "d4rl" and task.get("ref_min_score") is not None and task.get("ref_max_score") is not None:
        references = float(task["ref_min_score"]), float(task["ref_max_score"])
        return Reference(*references, task.get("ref_source") or "dataset", note)
    if source == "dataset":
        return None
    # A wrapper ("wrapper" in the environment's spec) makes another task of the same environment id. A policy
    # may be played elsewhere than in its data's environment, so their name counts where no other is known.
    name = task.get("dataset_id") if wrapper or not task.get("env_id") else task["env_id"]
    found = _from_table(name, _limit_of(task)) if name else None
    return replace(found, note=note) if found and note else found


def normalized_score(returns, task: str | Mapping, source: str | None = None) -> NormalizedScore | None:
    """Normalised score of undiscounted returns, 0 for a random policy and 100 for the reference expert.

    Args:
        returns: a number, or numbers of any shape.
        task, source: see `reference_of`.

    Returns:
        None where the task has no references that hold, see `why_no_score`.
    """
    reference = reference_of(task, source)
    if reference is None:
        return None
    span = reference.ref_max - reference.ref_min
    score = 100.0 * (np.asarray(returns, dtype=np.float64) - reference.ref_min) / span
    return NormalizedScore(
        float(score) if score.ndim == 0 else score,
        reference.ref_min,
        reference.ref_max,
        reference.source,
        reference.note,
    )


def _from_table(name: str, limit: int | None = None) -> Reference | None:
    """References by the name of an environment or dataset, and what its step limit leaves to be noted."""
    name = bare_id(name)
    for pattern, key in _NAMES:
        match = re.fullmatch(pattern, name)
        family = match.expand(key).lower() if match else None
        if family in D4RL_REFERENCES:
            note = next((text for pattern, text in _NOTES if re.fullmatch(pattern, name)), "")
            if family == "pen" and limit == PEN:
                note = ""
            return Reference(*D4RL_REFERENCES[family], f"{_OF_TABLE}{family}", note)
    return None
