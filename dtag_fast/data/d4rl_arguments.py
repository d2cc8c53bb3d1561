"""Which arguments and wrappers leave an environment's rewards and physics those of D4RL (Fu et al., 2020).

What is not named here counts as a change.
"""

from collections.abc import Mapping
from typing import Any

# What is drawn, what is seen, what Gymnasium takes for itself; a time limit is judged by `d4rl_limits`.
_HARMLESS = {
    *("render_mode", "width", "height", "camera_id", "camera_name", "default_camera_config"),
    *("max_geom", "visual_options"),
    *("exclude_current_positions_from_observation", "include_cfrc_ext_in_observation"),
    *("max_episode_steps", "disable_env_checker"),
}
_HARMLESS_WRAPPERS = {  # of gymnasium.wrappers
    *("OrderEnforcing", "PassiveEnvChecker", "RecordEpisodeStatistics", "RecordVideo", "HumanRendering"),
    *("DtypeObservation", "FilterObservation", "FlattenObservation", "FrameStackObservation"),
    *("NormalizeObservation", "RescaleObservation", "ReshapeObservation", "TimeAwareObservation"),
}
# argument -> values that D4RL's own environments have, by family
_DENSE = {"reward_type": ("dense",)}
_D4RLS = {
    "ant": {"use_contact_forces": (True, False)},  # v2 has them, v4 alike leaves them out by default
    **dict.fromkeys(("pen", "door", "hammer", "relocate"), _DENSE),
}
_MAZE2D = {"continuing_task": (True,), "reset_target": (False,)}


def changes(family: str, env_spec: Mapping[str, Any]) -> str:
    """What an environment is made with that may change the rewards or the physics of a family.

    Args:
        family: key of `scores.D4RL_REFERENCES`.
        env_spec: "kwargs" and "additional_wrappers" as in Gymnasium's EnvSpec as a dict.

    Returns:
        As "forward_reward_weight=3, the wrapper NormalizeReward"; "" where there is nothing.
    """
    own = _MAZE2D if family.startswith("maze2d") else _D4RLS.get(family, {})
    found = [
        _said(name, value)
        for name, value in (env_spec.get("kwargs") or {}).items()
        if name not in _HARMLESS and value not in own.get(name, ())
    ]
    for wrapper in env_spec.get("additional_wrappers") or ():
        name, entry_point = wrapper["name"], str(wrapper["entry_point"])
        if name not in _HARMLESS_WRAPPERS or not entry_point.startswith("gymnasium.wrappers"):
            found.append(f"the wrapper {name}")
    return ", ".join(found)


def _said(name: str, value: Any) -> str:
    return f"{name}={value}" if isinstance(value, str | int | float | None) else name
