"""Action Gradient with a setting that was chosen on the checkpoint itself, beside one chosen on another.

Step sizes are tuned by playing a policy that is there, so each checkpoint can have its own. The episodes that
choose it are never those that are reported.
"""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from dtag_fast.experiments.claims import Claim, on_most
from dtag_fast.experiments.reproduction.lab import Lab
from dtag_fast.experiments.reproduction.scores import (
    Goal,
    Score,
    gain_table,
    gains_of,
    setting_table,
)
from dtag_fast.experiments.reproduction.trainings import Training
from dtag_fast.experiments.tables import Table

GAIN_NOTE = (
    "Own: the step size, and the return where one is asked for, are chosen on the checkpoint itself, by "
    "episodes that are not reported; without the word, on the tuning seed. Mean and 95 % interval by "
    "Student's t over training seeds, seed by seed."
)
SETTING_NOTE = (
    "By training seed: chosen on its checkpoint, by episodes that are not reported. In brackets: what it "
    "gained over the policy alone on those."
)


def own(method: str) -> str:
    """The same method with the setting and the return that are best for the checkpoint."""
    return f"{method} own"


def refined(name: str) -> str:
    """Action Gradient on a policy so."""
    return own(f"{name}+AG")


def goals(lab: Lab, task: str, name: str, policy: Training, critic: Training, **options: Any) -> list[Goal]:
    """Both methods of one checkpoint. options: as `Lab.refined` takes them."""
    both = lab.refined(policy, critic, own=True, **options)
    return [
        Goal(task, own(name), policy.seed, both),
        Goal(task, refined(name), policy.seed, both, row="refined"),
    ]


def tables(scores: Sequence[Score], tasks: Sequence[str], names: Sequence[str]) -> dict[str, Table]:
    """What each way to choose gains, what one has over the other, and which settings were chosen."""
    pairs = []
    for name in names:
        other = f"{name}+AG"
        pairs += [(name, other), (own(name), refined(name)), (other, refined(name))]
    return {
        "own-gains": gain_table(scores, tasks, pairs, note=GAIN_NOTE),
        "own-settings": setting_table(scores, tasks, [refined(name) for name in names], SETTING_NOTE),
    }


def claim(scores: Sequence[Score], tasks: Sequence[str], names: Sequence[str]) -> Claim:
    """Whether the setting of the checkpoint itself is the better one in the mean, where they differ."""
    differences = [gains_of(scores, task, f"{name}+AG", refined(name)) for task in tasks for name in names]
    means = [fmean(found.values()) for found in differences if found]
    return on_most(
        "Action Gradient scores higher with the setting that is best for the checkpoint itself, on other "
        "episodes, than with one chosen on another training",
        [mean > 0 for mean in means if mean != 0],
        " tasks and policies; half by chance",
    )
