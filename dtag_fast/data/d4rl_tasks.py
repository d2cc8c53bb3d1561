"""What the name of a D4RL file says: its dataset id, the environment, the step limit, the reference scores.

D4RL's files carry none of it. Names are those of D4RL's download table (Fu et al., 2020, `d4rl/infos.py`)
and the dataset ids themselves, which pickled trajectories use ("hopper-medium-v2.pkl").
"""

import re
from dataclasses import dataclass, field

from dtag_fast.data import d4rl_limits
from dtag_fast.data.pointmaze import d4rl, env_spec
from dtag_fast.data.scores import Reference, reference_of

_LOCOMOTION_ENVIRONMENTS = {
    "hopper": "Hopper-v4",
    "halfcheetah": "HalfCheetah-v4",
    "walker2d": "Walker2d-v4",
    "ant": "Ant-v4",
}
_ADROIT_KINDS = {"v0_demos_clipped": "human", "demos-v0-bc-combined": "cloned", "v0_expert_clipped": "expert"}
_ANTMAZE_SIZES = {"u": "umaze", "big": "medium", "hardest": "large"}
_KITCHEN_KINDS = {
    "mini_kitchen_microwave_kettle_light_slider": "complete",
    "kitchen_microwave_kettle_light_slider": "partial",
    "kitchen_microwave_kettle_bottomburner_light": "mixed",
}


@dataclass(frozen=True)
class Task:
    """One D4RL task.

    Attributes:
        name: dataset id of D4RL, as "hopper-medium-replay-v2".
        family: "locomotion", "maze2d", "antmaze", "adroit" or "kitchen".
        max_episode_steps: step limit of an episode in D4RL's environment; None where it is not known.
        env_id: Gymnasium environment with D4RL's observations, actions and rewards; None where there is none.
        env_kwargs: what it has to be made with.
        env_wrapper: what `rollout.make_env` puts around it; None for nothing.
        env_note: why there is no environment; "" where there is one.
        d4rl_env: D4RL's environment where there is no other, as "antmaze-umaze"; tasks of one may be mixed.
    """

    name: str
    family: str
    max_episode_steps: int | None
    env_id: str | None = None
    env_kwargs: dict = field(default_factory=dict)
    env_wrapper: str | None = None
    env_note: str = ""
    d4rl_env: str = ""

    @property
    def env_spec(self) -> dict | None:
        """The environment as `rollout.make_env` takes it."""
        if self.env_id is None:
            return None
        spec = {"id": self.env_id, "kwargs": self.env_kwargs, "max_episode_steps": self.max_episode_steps}
        return spec if self.env_wrapper is None else spec | {"wrapper": self.env_wrapper}

    @property
    def reference(self) -> Reference | None:
        """D4RL's reference scores; None where it has none."""
        return reference_of(self.name, "d4rl")


def task_of(stem: str) -> Task | None:
    """The task of a file name without its ending; None for a name that is not D4RL's."""
    for parse in (_locomotion, _maze2d, _antmaze, _adroit, _kitchen):
        if (task := parse(stem)) is not None:
            return task
    return None


def _locomotion(stem: str) -> Task | None:
    kinds = "random|medium|expert|mixed|medium[-_]replay|medium[-_]expert|full[-_]replay|random[-_]expert"
    match = re.fullmatch(rf"(hopper|halfcheetah|walker2d|walker|ant)[-_]({kinds})(?:-v(\d))?", stem)
    if match is None:
        return None
    body = match[1].replace("walker2d", "walker").replace("walker", "walker2d")
    kind = match[2].replace("_", "-").replace("mixed", "medium-replay")
    # Ant's 111 observations of v2 are v4's 27 and the contact forces.
    kwargs = {"use_contact_forces": True} if body == "ant" else {}
    name = f"{body}-{kind}-v{match[3] or 0}"
    return Task(name, "locomotion", d4rl_limits.LOCOMOTION, _LOCOMOTION_ENVIRONMENTS[body], kwargs)


def _maze2d(stem: str) -> Task | None:
    match = re.fullmatch(r"maze2d-(open|umaze|medium|large)(-sparse|-dense)?(?:-v([01]))?", stem)
    if match is None:
        return None
    size, version = match[1], match[3] or "0"
    kind = "dense" if match[2] == "-dense" else "sparse"
    name = f"maze2d-{size}{'-dense' if kind == 'dense' else ''}-v{version}"
    limit, maze = d4rl_limits.MAZE2D.get((size, version)), d4rl.D4RL_MAZES[size]
    if limit is None:
        return Task(name, "maze2d", None, env_note=f"D4RL has no {name}, so its step limit is not known")
    return Task(name, "maze2d", limit, maze.env_id, env_spec(maze)["kwargs"], d4rl.WRAPPERS[kind])


def _antmaze(stem: str) -> Task | None:
    if match := re.fullmatch(
        r"Ant_maze_(u|big|hardest)-maze_noisy_multistart_(True|False)_multigoal_(True|False)_sparse(_fixed)?",
        stem,
    ):
        size, diverse = _ANTMAZE_SIZES[match[1]], match[3] == "True"
        kind = ("-diverse" if diverse else "") if size == "umaze" else ("-diverse" if diverse else "-play")
        version = "2" if match[4] else "0"
    elif match := re.fullmatch(r"antmaze-(umaze|medium|large)(-play|-diverse)?-v([012])", stem):
        size, kind, version = match[1], match[2] or "", match[3]
    else:
        return None
    return Task(
        f"antmaze-{size}{kind}-v{version}",
        "antmaze",
        d4rl_limits.ANTMAZE[size],
        env_note="D4RL's antmaze has no equal in Gymnasium-Robotics: AntMaze's ant has motors five times as "
        "strong, acts every 0.05 s in place of 0.1 s, and its maze is mirrored",
        d4rl_env=f"antmaze-{size}",
    )


def _adroit(stem: str) -> Task | None:
    hands = "pen|door|hammer|relocate"
    if match := re.fullmatch(rf"({hands})-({'|'.join(_ADROIT_KINDS)})", stem):
        hand, kind, version = match[1], _ADROIT_KINDS[match[2]], "0"
    elif match := re.fullmatch(rf"({hands})-(human|cloned|expert)-v([01])", stem):
        hand, kind, version = match[1], match[2], match[3]
    else:
        return None
    limit = d4rl_limits.PEN if hand == "pen" else d4rl_limits.ADROIT
    return Task(f"{hand}-{kind}-v{version}", "adroit", limit, f"AdroitHand{hand.capitalize()}-v1")


def _kitchen(stem: str) -> Task | None:
    base = stem.removesuffix("-v0")
    if base in _KITCHEN_KINDS:
        kind = _KITCHEN_KINDS[base]
    elif match := re.fullmatch(r"kitchen-(complete|partial|mixed)", base):
        kind = match[1]
    else:
        return None
    return Task(
        f"kitchen-{kind}-v0",
        "kitchen",
        d4rl_limits.KITCHEN,
        env_note="D4RL's kitchen has no equal in Gymnasium-Robotics: FrankaKitchen's observations hold "
        "velocities, have a tenth of the noise and say the goals in a Dict",
        d4rl_env=f"kitchen of {'bottom burner' if kind == 'mixed' else 'slider'}",
    )
