"""Training and policy steps on a GPU against the usual ways. `--device cpu` is a dry run.

The variants of a row compute the same from the same data; dropout is on in training.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from dtag_fast.algorithms import create
from dtag_fast.algorithms.dt import Config
from dtag_fast.algorithms.losses import masked_mse
from dtag_fast.data import TrajectoryStore
from dtag_fast.models import (
    DecisionTransformer,
    DecisionTransformerConfig,
    Reinformer,
    ReinformerConfig,
)
from dtag_fast.rollout import SequencePolicy
from dtag_fast.rollout.captured import CapturedStep
from dtag_fast.training.capture import TrainingSteps

from .peers import cuda_graph
from .peers.sequence import PlainDecisionTransformer
from .test_sequence_gpu import on_device, report
from .variants import Call, LeftOut

STATE_DIM, ACTION_DIM = 17, 6
UPDATES = 10  # in a call
EPISODES, EPISODE_STEPS = 100, 200


def random_store() -> TrajectoryStore:
    """Episodes of random numbers: their values change no time."""
    rng, steps = np.random.default_rng(0), EPISODES * EPISODE_STEPS
    return TrajectoryStore(
        {
            "observations": rng.normal(size=(steps + EPISODES, STATE_DIM)).astype(np.float32),
            "actions": rng.uniform(-1, 1, (steps, ACTION_DIM)).astype(np.float32),
            "rewards": rng.uniform(size=steps).astype(np.float32),
            "terminations": np.zeros(steps, bool),
            "truncations": np.arange(1, steps + 1) % EPISODE_STEPS == 0,
            "offsets": np.arange(EPISODES + 1, dtype=np.int64) * EPISODE_STEPS,
        },
        {"action_low": [-1.0] * ACTION_DIM, "action_high": [1.0] * ACTION_DIM},
    )


def usual_updates(
    config: Config,
    store: TrajectoryStore,
    device: torch.device,
    compiled: str | None = None,
    one_batch: bool = False,
) -> Call:
    """Updates of the plain network: PyTorch's attention, dropout, clipping and AdamW.

    Args:
        compiled: mode of torch.compile for forward and loss; None: eager.
        one_batch: take the same batch every time, for a graph that cannot draw from the sampler's generator.
    """
    learner = create("dt", store, config, device=device, capturable=device.type == "cuda")
    model = PlainDecisionTransformer(learner.model.config).to(device).train()
    sampler, generator = learner.make_sampler(store), torch.Generator(device).manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True, capturable=device.type == "cuda")

    def loss_of(*batch):
        return masked_mse(model(*batch).actions, batch[1], batch[-1])

    if compiled is not None:
        torch.compiler.reset()
        loss_of = torch.compile(loss_of, mode=compiled, dynamic=False)

    kept = sampler.sample(generator)

    def update() -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_of(*(kept if one_batch else sampler.sample(generator)))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm, foreach=True)
        optimizer.step()
        return loss.detach()

    return update


def repeated(update: Call) -> Call:
    def call():
        for _ in range(UPDATES):
            update()

    return call


def our_updates(config: Config, store: TrajectoryStore, device: torch.device, captured: bool) -> Call:
    if captured and device.type != "cuda":
        raise LeftOut("CUDA graphs need a GPU")
    learner = create("dt", store, config, device=device, capturable=captured)
    generator = torch.Generator(device).manual_seed(0)
    steps = TrainingSteps(
        learner,
        learner.make_sampler(store),
        generator,
        eager=None if captured else "timed",
        insist=captured,
        steps_per_replay=UPDATES,
    )

    def call():
        made = 0
        while made < UPDATES:
            made += steps.advance(UPDATES - made)[0]

    for _ in range(2):  # what comes before a capture, and the capture
        call()
    return call


@pytest.mark.parametrize("batch", [64, 4096], ids="B={}".format)
@pytest.mark.parametrize("precision", ["highest", "high"])
def test_training_steps_gpu(benchmark, request, batch: int, precision: str):
    """Ten updates of DT: d=128, 3 layers, one head, K=20, dropout 0.1."""
    device = on_device(request)
    if device.type == "cpu" and (batch > 64 or precision != "highest"):
        pytest.skip("the dry run has one batch size")
    config, store = Config(batch_size=batch), random_store()
    with_compile = not request.config.getoption("without_compile")
    plain = {
        "the same network on SDPA": None,
        "on SDPA, torch.compile": "default",
        "on SDPA, torch.compile with CUDA graphs": "reduce-overhead",
    }
    makers: dict[str, Callable[[], Call]] = {
        "dtag_fast, captured": lambda: our_updates(config, store, device, captured=True),
        "dtag_fast": lambda: our_updates(config, store, device, captured=False),
    }
    for name, mode in plain.items():
        if mode is None or with_compile:
            makers[name] = lambda mode=mode: repeated(usual_updates(config, store, device, mode))
    if device.type == "cuda":
        makers["on SDPA, CUDA graph of an update"] = lambda: repeated(
            cuda_graph.capture(usual_updates(config, store, device, one_batch=True))
        )
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        reference = "dtag_fast, captured" if device.type == "cuda" else "dtag_fast"
        about = {"batch": batch, "updates": UPDATES, "precisions": precisions(makers, precision)}
        report(benchmark, request, makers, reference, **about)
    finally:
        torch.set_float32_matmul_precision(before)


def precisions(makers: dict, precision: str) -> dict[str, str]:
    return dict.fromkeys(makers, {"highest": "fp32", "high": "tf32"}[precision])


NETWORKS = {
    "dt": (DecisionTransformer, DecisionTransformerConfig, {"context_len": 20}),
    "reinformer": (Reinformer, ReinformerConfig, {}),  # 4 layers, d=256, 8 heads, K=5
}


@pytest.mark.parametrize("batch", [64, 1, 1024, 4096], ids="B={}".format)
@pytest.mark.parametrize("kind", NETWORKS)
def test_policy_steps_gpu(benchmark, request, kind: str, batch: int):
    """One step of all rollouts, beyond the first K, from observations on the host to actions on the host."""
    device = on_device(request, batch)
    torch.manual_seed(0)
    network, config, sizes = NETWORKS[kind]
    model = network(config(state_dim=STATE_DIM, action_dim=ACTION_DIM, **sizes)).to(device).eval()
    k, target = model.config.context_len, None if model.predicts_returns else 1.0
    observations, everyone = np.random.default_rng(0).normal(size=(batch, STATE_DIM)), np.ones(batch, bool)
    policy, whole = (SequencePolicy(model, batch, target, incremental=new) for new in (True, False))
    for actor in (policy, whole):
        for _ in range(k):
            actions = actor.act(observations, everyone)
            actor.record(actions, np.zeros(batch), everyone)
    captured = CapturedStep(policy, None, capture=device.type == "cuda")
    captured.act(observations, everyone, np.zeros(batch, np.int64))
    step, window = policy.begin(observations, everyone), whole.history.window(np.arange(batch))

    def plain() -> np.ndarray:
        states, actions, returns, times, mask = (torch.from_numpy(x).to(device) for x in window)
        with torch.inference_mode():
            if model.predicts_returns:
                returns[:, -1] = model(states, actions, returns, times, mask).returns[:, -1]
            return model(states, actions, returns, times, mask).actions[:, -1].cpu().numpy()

    def act() -> np.ndarray:
        states, *rest = (torch.from_numpy(x).to(device) for x in window)
        return model.act(states, *rest)[0].cpu().numpy()

    def incremental() -> np.ndarray:
        with torch.inference_mode():
            return policy._compute(step)[0].cpu().numpy()

    def on_sdpa(call: Call) -> Call:
        def switched():
            model.attention = "sdpa"
            try:
                return call()
            finally:
                model.attention = None

        return switched

    makers: dict[str, Callable[[], Call]] = {
        "dtag_fast, captured": lambda: captured.run,
        "dtag_fast, new tokens": lambda: incremental,
        "dtag_fast, whole window": lambda: act,
        "every token of the window, on SDPA": lambda: on_sdpa(plain),
    }
    about = {"batch": batch, "precisions": precisions(makers, "highest")}
    report(benchmark, request, makers, "dtag_fast, captured", **about)
