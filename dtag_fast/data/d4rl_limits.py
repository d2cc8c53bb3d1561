"""Step limits of D4RL's environments (Fu et al., 2020), which its reference scores were measured with.

The environments of Gymnasium and Gymnasium-Robotics have the same ones, but for the pen.
"""

import re

LOCOMOTION, ADROIT, PEN, KITCHEN = 1000, 200, 100, 280
GYMNASIUMS_PEN = 200
ANTMAZE = {"umaze": 700, "medium": 1000, "large": 1000}
MAZE2D = {
    ("open", "0"): 150,
    ("umaze", "0"): 150,
    ("medium", "0"): 250,
    ("large", "0"): 600,
    ("umaze", "1"): 300,
    ("medium", "1"): 600,
    ("large", "1"): 800,
}
_FAMILIES = {
    **dict.fromkeys(("hopper", "halfcheetah", "walker2d", "ant"), (LOCOMOTION,)),
    **dict.fromkeys(("door", "hammer", "relocate"), (ADROIT,)),
    "pen": (PEN, GYMNASIUMS_PEN),
    "antmaze": tuple(sorted(set(ANTMAZE.values()))),
    "kitchen": (KITCHEN,),
}


def limits_of(family: str) -> tuple[int, ...]:
    """Step limits under which returns are compared with the references of a family.

    Args:
        family: key of `scores.D4RL_REFERENCES`, as "hopper" or "maze2d-umaze-dense-v1".

    Returns:
        D4RL's own limits, in ascending order; for "pen" also Gymnasium-Robotics' (the difference is noted
        with the score). Empty for a family that D4RL does not have.
    """
    if match := re.fullmatch(r"maze2d-(\w+?)(?:-dense)?-v(\d)", family):
        limit = MAZE2D.get((match[1], match[2]))
        return () if limit is None else (limit,)
    return _FAMILIES.get(family, ())
