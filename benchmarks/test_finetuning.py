"""What a critic costs beside an Online Decision Transformer: updates of odt and td3-odt, taking turns.

One call makes one update of the policy: with td3-odt that is `policy_delay` updates, each with one of the
critic. Paper: 20 % more training time than ODT (Yan et al. 2024, section 5).
"""

import os

import pytest
import torch

from dtag_fast.algorithms import create
from dtag_fast.algorithms.odt import Config as ODT
from dtag_fast.algorithms.td3_odt import Config as TD3ODT
from dtag_fast.training.loop import numbers_in
from dtag_fast.training.metrics import WindowMeans

from .interleave import cores, measure
from .test_training import SCALE, dataset

ODT_ALONE, FULL = "odt", "td3-odt"
NO_GRADIENT, IN_FLOAT32 = "td3-odt without the RL gradient", "td3-odt, float32 targets"
SIZES = {  # K = 20
    "d=128, 3 layers, 64 windows": {"d_model": 128, "n_layer": 3, "batch_size": 64},
    "d=512, 4 layers, 256 windows": {},  # as published: seconds a call
}
ROUNDS = {"d=128, 3 layers, 64 windows": 9, "d=512, 4 layers, 256 windows": 3}
CONFIGS = {
    ODT_ALONE: ("odt", ODT, {}),
    FULL: ("td3-odt", TD3ODT, {"alpha": 0.1}),
    NO_GRADIENT: ("td3-odt", TD3ODT, {"alpha": 0.0}),
    IN_FLOAT32: ("td3-odt", TD3ODT, {"alpha": 0.1, "target_precision": "fp32"}),
}
WANTED = 1.2  # times the cost of odt, at most


@pytest.mark.parametrize("size", SIZES)
def test_finetuning_update(benchmark, request, size: str):
    threads, store, calls = min(2, len(os.sched_getaffinity(0))), dataset(), {}

    def policy_update(algorithm, config, settings):
        learner = create(algorithm, store, config(return_scale=SCALE, **SIZES[size], **settings))
        sampler, generator, window = (
            learner.make_sampler(store),
            torch.Generator().manual_seed(0),
            WindowMeans(),
        )

        def step() -> None:
            with numbers_in("fp32", learner.device):
                for _ in range(learner.period):
                    window.add(learner.update(sampler.sample(generator)))

        return step

    with cores(threads):
        calls = {name: policy_update(*how) for name, how in CONFIGS.items()}
        seconds = 2 * request.config.getoption("seconds")
        measured = measure(calls, seconds=seconds, min_rounds=ROUNDS[size])
        benchmark.pedantic(calls[FULL], rounds=1)
    benchmark.extra_info |= {
        "threads": threads,
        "reference": ODT_ALONE,
        "variants": measured,
        "wanted_ratio": {FULL: 1 / WANTED},
    }
