"""Ways to choose the steps of Action Gradient, side by side on one policy and one critic.

    python -m tools.behaviour_study POLICY_RUN CRITIC_RUN --out docs/studies/behaviour/NAME.json
    python -m tools.behaviour_study POLICY CRITIC [POLICY CRITIC ...] --fits 1 --out FILE    one pair a seed

Settings, all with n = 10 and paired with the plain policy on the same seeds: the paper's raw gradient with
every step size of LR (whose best is what tuning on these episodes would choose, so it flatters); steps in
deviations of the data's actions within the radii RADII, without a prior; and with the prior of `Behaviour`,
with every weight of WEIGHTS. The last two are repeated with models of the behaviour from other seeds. A file
of several pairs is written after each of them and gone on with when the command is repeated.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import machine
from dtag_fast.data import load_dataset
from dtag_fast.rollout import AGSetting, Behaviour, EvaluationResult, evaluate
from dtag_fast.training import RunInfo, fit_behaviour, load_critic, load_policy
from dtag_fast.training.files import write_json

STEPS = 10
LR = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
RADII = (0.1, 0.25, 0.5, 1.0)
WEIGHTS = (0.1, 0.2, 0.4, 0.8)


def settings() -> dict[str, list[AGSetting]]:
    """The settings by family."""
    return {
        "plain": [AGSetting()],
        "raw": [AGSetting(STEPS, lr=lr) for lr in LR],
        "radius": [AGSetting(STEPS, behaviour=Behaviour(0.0, radius)) for radius in RADII],
        "behaviour": [AGSetting(STEPS, behaviour=Behaviour(weight, 1.0)) for weight in WEIGHTS],
    }


def study(policy: Path, critic: Path, episodes: int, seed: int, fits: int) -> dict:
    """The result of one policy and critic, as plain JSON; `fits` models of the behaviour, seeds 0, 1, ..."""
    loaded, judge = load_policy(policy), load_critic(critic)
    store = load_dataset(judge.info.dataset_id, observation_keys=judge.info.observation_keys)
    families, rows = settings(), []
    for fit in range(fits):
        asked = {
            name: family
            for name, family in families.items()
            if fit == 0 or name in ("plain", "radius", "behaviour")
        }
        result = evaluate(
            loaded,
            critic=judge,
            settings=[setting for family in asked.values() for setting in family],
            behaviour=fit_behaviour(judge.critic, store, seed=fit),
            episodes=episodes,
            seed=seed,
        )
        names = [name for name, family in asked.items() for _ in family]
        found = [_row(result, number, family) | {"fit": fit} for number, family in enumerate(names)]
        rows += [row for row in found if fit == 0 or row["family"] != "plain"]
    return {
        "machine": machine.describe(),
        "dataset": loaded.info.dataset_id,
        "policy": _about(loaded.info),
        "critic": _about(judge.info),
        "env": result.env_id,
        "episodes": episodes,
        "seed": seed,
        "settings": rows,
    }


def _about(info: RunInfo) -> dict:
    return {"algorithm": info.algorithm, "updates": info.step, "seed": info.seed, "config": info.config}


def _row(result: EvaluationResult, number: int, family: str) -> dict:
    found = result.settings[number]
    paired = found.paired and found.paired.difference
    return {
        "family": family,
        "label": found.label,
        "mean": found.mean,
        "std": found.std,
        "gain": paired and {"mean": paired.mean, "ci95": list(paired.ci95)},
        "q_gain": sum(found.mean_q_gain) / len(found.mean_q_gain),
    }


def show(found: dict) -> None:
    """Print a result, a line per setting."""
    for row in found["settings"]:
        gain = row["gain"]
        low, high = (None, None) if gain is None else gain["ci95"]
        change = "" if gain is None else f"{gain['mean']:+.1f} ({low:+.1f} .. {high:+.1f})"
        print(f"{row['label']:44s} {row['fit']} {row['mean']:9.1f}  {change}", flush=True)


def main(argv: Sequence[str]) -> int:
    """Run the study and write it."""
    parser = argparse.ArgumentParser(prog="python -m tools.behaviour_study", description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="policy and critic, in turn")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--fits", type=int, default=3, help="models of the behaviour, each with its own seed")
    args = parser.parse_args(argv)
    if len(args.runs) % 2:
        parser.error(f"expected a critic for every policy, got {len(args.runs)} runs")
    pairs = list(zip(args.runs[::2], args.runs[1::2], strict=True))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if len(pairs) == 1:
        found = study(*pairs[0], args.episodes, args.seed, args.fits)
        write_json(args.out, found)
        show(found)
        return 0
    runs = json.loads(args.out.read_text())["runs"] if args.out.exists() else []
    for policy, critic in pairs[len(runs) :]:
        runs.append(study(policy, critic, args.episodes, args.seed, args.fits))
        write_json(args.out, {"runs": runs})
        show(runs[-1])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
