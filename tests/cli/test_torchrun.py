"""Two processes started by torchrun train as one process with a batch twice as large."""

import json
import os
import shlex
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

DATASET = "test/pendulum-v0"
SEQUENCE = "--context-len 3 --d-model 16 --n-layer 2 --n-head 2"
OPTIONS = {
    "dt": f"{SEQUENCE} --warmup 1 --lr 0.01",
    "reinformer": f"{SEQUENCE} --warmup 1 --lr 0.01",
    "edt": f"{SEQUENCE} --warmup 1 --lr 0.01",
    "qt": f"{SEQUENCE} --critic-hidden 16 16 --ema-start 1 --ema-every 2 --lr 0.01 --lr-horizon 10",
    "td3-odt": f"{SEQUENCE} --eval-context-len 2 --critic-hidden 16 16 --alpha 0.1 --target-noise 0 "
    "--warmup 1 --lr 0.01 --normalize-q",
    "iql": "--hidden 16 16 --policy --reward-transform raw",
}


def torchrun(line: str) -> str:
    """Standard output of `dtag` in two processes; after `--` torchrun takes no option for its own."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "-m", "--", "dtag_fast.cli", *shlex.split(line)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def records(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(("time/", "speed/"))} for row in rows]


def weights(run):
    folder = run / "checkpoints" / "last"
    return {f"{f.name} {k}": v for f in folder.rglob("*.safetensors") for k, v in load_file(f).items()}


def assert_two_processes_train_as_one(dtag, tmp_path, line):
    """`dtag LINE` in two processes with batches of 4, and in one with batches of 8."""
    common = f"{line} --updates 6 --log-every 2"
    out = torchrun(f"{common} --batch-size 4 --out two")
    assert out.count("run folder: two") == 1  # one of them speaks and writes
    assert dtag(f"{common} --batch-size 8 --out one")[0] == 0
    assert sorted(p.relative_to(tmp_path / "two") for p in (tmp_path / "two").rglob("*")) == sorted(
        p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*")
    )
    for two, one in zip(records(tmp_path / "two"), records(tmp_path / "one"), strict=True):
        assert two == pytest.approx(one, rel=1e-4, abs=1e-6)
    ours, theirs = (weights(tmp_path / name) for name in ("two", "one"))
    for name in (name for name in ours if name.startswith(("model", "critic"))):
        pair = ours[name], theirs[name]
        if name.endswith("qkv.bias"):  # that of the keys has no effect, and Adam makes steps of its rounding
            pair = tuple(bias.view(3, -1)[[0, 2]] for bias in pair)
        torch.testing.assert_close(*pair, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("algorithm", OPTIONS)
def test_two_processes_train_as_one_with_twice_the_batch(dtag, tmp_path, algorithm):
    dropout = "" if algorithm == "iql" else "--dropout 0"
    line = f"train {algorithm} {DATASET} {OPTIONS[algorithm]} {dropout} --holdout 0.4 --validate-every 3"
    assert_two_processes_train_as_one(dtag, tmp_path, line)


def test_discrete_actions_too(dtag, tmp_path, cartpole_file):
    line = f"train reinformer {cartpole_file} {OPTIONS['reinformer']} --dropout 0 --start anywhere"
    assert_two_processes_train_as_one(dtag, tmp_path, f"{line} --holdout 0.25 --validate-every 3")
    names = {name for row in records(tmp_path / "two") for name in row}
    assert {"train/accuracy", "valid/accuracy"} <= names


def test_a_resumed_run_of_two_processes_equals_an_uninterrupted_one(homes, dtag, tmp_path):
    """With dropout, of which each process has its own."""
    command = f"train dt {DATASET} {OPTIONS['dt']} --dropout 0.5 --batch-size 4 --log-every 4"
    torchrun(f"{command} --out whole --updates 6")
    torchrun(f"{command} --out parts --updates 3")
    torchrun(f"{command} --out parts --updates 6 --resume")
    assert records(tmp_path / "parts") == records(tmp_path / "whole")
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []
