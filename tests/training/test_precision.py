"""Training in bf16, tf32 and through torch.compile: near float32, and the process is left as it was."""

import json

import pytest
import torch

from dtag_fast.training import load_critic, load_policy, train


def losses(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k.startswith("train/")} for row in rows]


def run_in(store, configs, out, algorithm, **options):
    before = torch.get_float32_matmul_precision()
    run = train(algorithm, store, config=configs[algorithm], out=out, updates=6, log_every=2, **options)
    assert torch.get_float32_matmul_precision() == before
    assert not torch.is_autocast_enabled("cpu")
    return run


def test_bf16_is_near_float32_and_not_the_same(store, configs, tmp_path, algorithm):
    exact = losses(run_in(store, configs, tmp_path / "fp32", algorithm, precision="fp32"))
    run = run_in(store, configs, tmp_path / "bf16", algorithm, precision="bf16")
    assert losses(run) != exact
    for rounded, full in zip(losses(run), exact, strict=True):
        assert rounded == pytest.approx(full, rel=0.1, abs=0.05)
    network = load_critic(run).critic if algorithm == "iql" else load_policy(run).model
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_validation_in_bf16_is_near_that_in_float32(store, configs, tmp_path, algorithm):
    options = {"holdout": 0.4, "validate_every": 6}
    errors = []
    for precision in ("fp32", "bf16"):
        run = run_in(store, configs, tmp_path / precision, algorithm, precision=precision, **options)
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        errors += [{k: v for k, v in row.items() if "valid/" in k} for row in rows if "valid/" in str(row)]
    assert errors[0] and errors[1] == pytest.approx(errors[0], rel=0.1, abs=0.05)


def test_precision_of_products_is_set_for_the_training_alone(store, configs, tmp_path):
    seen = []

    def evaluate(step, run):
        seen.append((torch.get_float32_matmul_precision(), torch.is_autocast_enabled("cpu")))
        return {}

    for name, expected in (("tf32", "high"), ("fp32", "highest"), ("bf16", "highest")):
        options = {"precision": name, "eval_every": 6, "evaluate": evaluate}
        run = run_in(store, configs, tmp_path / name, "dt", **options)
        assert json.loads((run / "config.json").read_text())["precision"] == name
        assert seen.pop() == (expected, False)
    with pytest.raises(ValueError, match="precision: expected one of fp32, tf32, bf16, got 'fp16'"):
        train("dt", store, out=tmp_path / "no", updates=1, precision="fp16")


def test_resuming_in_bf16_gives_the_same_bits(store, configs, tmp_path, algorithm, assert_same_bits):
    options = {"config": configs[algorithm], "precision": "bf16"}
    whole = train(algorithm, store, out=tmp_path / "whole", updates=6, **options)
    train(algorithm, store, out=tmp_path / "parts", updates=3, **options)
    parts = train(algorithm, store, out=tmp_path / "parts", updates=6, resume=True, **options)
    assert_same_bits(whole, parts)


def test_compiled_networks_train_alike(store, configs, tmp_path, algorithm):
    """Through the graph that inductor would compile, without its minute."""
    eager = run_in(store, configs, tmp_path / "eager", algorithm)
    compiled = run_in(store, configs, tmp_path / "compiled", algorithm, compile="aot_eager")
    for a, b in zip(losses(compiled), losses(eager), strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-6)
    load = load_critic if algorithm == "iql" else load_policy
    assert load(compiled).info.step == 6


@pytest.mark.slow
def test_compiled_by_inductor(store, configs, tmp_path):
    eager = run_in(store, configs, tmp_path / "eager", "dt")
    compiled = run_in(store, configs, tmp_path / "compiled", "dt", compile=True)
    for a, b in zip(losses(compiled), losses(eager), strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-6)
