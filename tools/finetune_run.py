"""One run of tools.finetune_study: a policy trained offline, then fine-tuned, and what is told of it."""

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine
from dtag_fast.algorithms.registry import preset_config
from dtag_fast.data import load_dataset
from dtag_fast.finetuning import finetune, online_preset
from dtag_fast.finetuning.curve import evaluated_target, evaluations, updates_each
from dtag_fast.rollout.run_evaluation import evaluation_scores
from dtag_fast.training import train
from dtag_fast.training.files import read_json, read_json_lines, write_json

FORMAT = 1
RECORD = "run.json"  # in the folder of a run; there is one when the run is over
CHECKPOINT_EVERY = 1_000  # updates of the offline part


@dataclass(frozen=True)
class Settings:
    """What decides the numbers of all runs of a study besides their algorithm and seed.

    Attributes:
        dataset: as `load_dataset` takes it. env_id: None for the environment of the data.
        pretrain_updates: of the policy. env_steps: to play in all.
        eval_every: iterations. eval_episodes: of each evaluation, the same start seeds every time.
        policy, online: what is not as in the presets of the algorithm's config and of `OnlineConfig`.
    """

    dataset: str
    env_id: str | None = None
    pretrain_updates: int = 5_000
    env_steps: int = 200_000
    eval_every: int = 10
    eval_episodes: int = 10
    eval_seed: int = 1_000
    policy: dict[str, Any] = field(default_factory=dict)
    online: dict[str, Any] = field(default_factory=dict)


def offline_config(algorithm: str, metadata: dict[str, Any], changes: dict[str, Any]) -> Any:
    """An algorithm's preset with some settings changed; the policy looks back no further than it was trained.

    Raises:
        ValueError: a setting that it does not take.
    """
    published = preset_config(algorithm, metadata)
    if "context_len" in changes:
        seen = min(published.eval_context_len, changes["context_len"])
        changes = changes | {"eval_context_len": seen}
    return dataclasses.replace(published, **changes)


def make_run(settings: Settings, algorithm: str, seed: int, folder: Path, stop: Callable[[], bool]) -> bool:
    """Train, fine-tune and write RECORD, or do what is missing of it, with one thread.

    Args:
        folder: of this run alone; "offline" and "online" in it are run folders.
        stop: asked after every update; True, which it then stays, saves all and ends the run there.
    Returns:
        Whether the run is over.
    Raises:
        ValueError: a bad setting, or others than those that the folder was begun with.
    """
    if stop():
        return False
    torch.set_num_threads(1)
    store = load_dataset(settings.dataset)
    config = offline_config(algorithm, store.metadata, settings.policy)
    updates = settings.pretrain_updates * updates_each(dataclasses.asdict(config))
    offline = train(
        algorithm,
        store,
        out=folder / "offline",
        config=config,
        updates=updates,
        seed=seed,
        log_every=math.gcd(updates, 100),
        checkpoint_every=CHECKPOINT_EVERY,
        keep_last=1,
        resume=True,
        stop=stop,
    )
    if stop():
        return False

    def evaluate(step: int, run: Path) -> dict[str, float]:
        options = {"episodes": settings.eval_episodes, "seed": settings.eval_seed}
        options |= {"env_id": settings.env_id, "env_processes": 0}
        return evaluation_scores(run / "checkpoints" / str(step), "cpu", options)

    finetune(
        offline,
        algorithm,
        out=folder / "online",
        env_steps=settings.env_steps,
        store=store,
        online=dataclasses.replace(online_preset(store.metadata), **settings.online),
        seed=seed,
        env_id=settings.env_id,
        evaluate=evaluate,
        eval_every=settings.eval_every,
        env_processes=0,
        resume=True,
        stop=stop,
    )
    if stop():
        return False
    write_json(folder / RECORD, record(folder))
    return True


def record(folder: Path) -> dict[str, Any]:
    """What a result file holds of a run that is over."""
    offline, online = (read_json(folder / part / "config.json") for part in ("offline", "online"))
    log = read_json_lines(folder / "online" / "metrics.jsonl")
    rounds = [entry for entry in log if "online/env_steps" in entry]
    first, last = log[0]["step"], log[-1]["step"]
    each = updates_each(online["config"])
    target = evaluated_target(log)
    return {
        "algorithm": online["algorithm"],
        "seed": online["seed"],
        "dataset": online["dataset"],
        "target_return": target,
        "evaluations": evaluations(log, target, each),
        "offline": {
            "updates": first,
            "policy_updates": first // updates_each(offline["config"]),
            "seconds": _seconds(folder / "offline"),
            "config": offline["config"],
        },
        "online": {
            "env_steps": rounds[-1]["online/env_steps"],
            "episodes": rounds[-1]["online/episodes"],
            "failed_episodes": rounds[-1]["online/failed_episodes"],
            "iterations": len(rounds),
            "updates": last - first,
            "policy_updates": (last - first) // each,
            "collect_seconds": _sum(rounds, "time/collect_s"),
            "update_seconds": _sum(rounds, "time/update_s"),
            "config": online["config"],
            "settings": online["online"],
            "start": online["start"],
        },
        "machine": machine.describe(),
        "date": time.strftime("%Y-%m-%d"),
    }


def _seconds(run: Path) -> float:
    return [e["time/seconds"] for e in read_json_lines(run / "metrics.jsonl") if "time/seconds" in e][-1]


def _sum(rounds: list[dict[str, Any]], name: str) -> float:
    """Of an iteration that was stopped and gone on with its later part is counted."""
    return sum(entry.get(name, 0.0) for entry in rounds)
