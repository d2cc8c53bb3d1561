"""The evaluations of a fine-tuned run, as a curve over steps of the environment."""

from typing import Any


def updates_each(config: dict[str, Any]) -> int:
    """Updates of an algorithm for one of its policy: TD3's critic moves `policy_delay` times."""
    return config.get("policy_delay", 1)


def evaluated_target(log: list[dict[str, Any]]) -> float:
    """The return that the evaluations asked for, the highest of several."""
    parts = (name.split("/") for entry in log for name in entry if name.startswith("eval/"))
    targets = [float(part[1]) for part in parts if part[-1] == "return_mean"]
    if not targets:
        raise ValueError(
            "evaluations: expected at least one episode that its environment let finish, got none"
        )
    return max(targets)


def evaluations(log: list[dict[str, Any]], target: float, each: int) -> list[dict[str, Any]]:
    """Steps of the environment, updates of the policy since the start, mean return and normalised score of
    each evaluation with a finished episode; the score is None where the data have no references."""
    prefix, first = f"eval/{target:g}", log[0]["step"]
    return [
        {
            "env_steps": entry["eval/env_steps"],
            "policy_updates": (entry["step"] - first) // each,
            "return_mean": entry[f"{prefix}/return_mean"],
            "normalized_score": entry.get(f"{prefix}/normalized_score"),
        }
        for entry in log
        if f"{prefix}/return_mean" in entry
    ]
