"""About how long pieces of work take. No number depends on this file, so no fingerprint of code holds it."""

from typing import Any

MAZE_SECONDS = 5e-5  # a step of the walk through a maze
EPISODE_SECONDS = 0.15  # a thousand steps of one environment among many, with the policy's share

# seconds of an update on one core of a 2-core Intel Xeon (AVX-512, AMX) while the other works: medians
# of the suites' own trainings, with widths of the small budget for sequence models (K=5, d=64, 2 layers,
# 64 windows), published ones for all else
_UPDATE_SECONDS = {"bc": 0.0016, "dt": 0.012, "reinformer": 0.018, "adt": 0.013, "edt": 0.017, "qt": 0.035}
_UPDATE_SECONDS |= {"odt": 0.017, "td3-odt": 0.022}
_UPDATE_SECONDS |= {"iql": 0.0034, "td3bc": 0.0086, "awac": 0.0185, "cql": 0.166}
_PUBLISHED = {"context_len": 20, "n_layer": 3, "batch_size": 64, "d_model": 128}
_PUBLISHED_ONLINE = {"context_len": 20, "n_layer": 4, "batch_size": 256, "d_model": 512}
_SMALL_TOKENS = 5 * 2 * 64 * 64**2  # K x layers x windows x width^2


def update_seconds(algorithm: str, changes: dict[str, Any]) -> float:
    """About what an update of an algorithm takes; a sequence model's grows with its size."""
    seconds = _UPDATE_SECONDS[algorithm]
    if algorithm not in ("dt", "reinformer", "adt", "edt", "qt", "odt", "td3-odt"):
        return seconds * (1.6 if changes.get("policy") else 1.0)
    if algorithm == "td3-odt":  # the policy is most of it, which moves in every so many updates
        seconds *= 2 / changes.get("policy_delay", 2)
    sizes = (_PUBLISHED_ONLINE if algorithm.endswith("odt") else _PUBLISHED) | changes
    tokens = sizes["context_len"] * sizes["n_layer"] * sizes["batch_size"] * sizes["d_model"] ** 2
    return seconds * max(1.0, tokens / _SMALL_TOKENS)
