#!/usr/bin/env bash
# What only a machine with an NVIDIA GPU can show: builds the package beside the sources, runs the tests that use a GPU when there
# is one, and times refine against its peers. Needs no network: the Python on PATH must hold torch, pytest, pytest-benchmark,
# pytest-xdist, hypothesis, pybind11 and setuptools. Ends within 8 minutes.
#   tools/gpu_check.sh OUT                 writes OUT/check.json, OUT/<gpu>-<date>.json and the logs
#   tools/gpu_check.sh OUT --device cpu    the same steps without a GPU, to try the script
set -euo pipefail
out=${1:?usage: tools/gpu_check.sh OUT [--device cpu]}
device=cuda
options=()
if [ "${2:-}" = --device ]; then device=${3:?--device takes cuda or cpu}; fi
if [ "$device" = cpu ]; then options+=(--without-compile); fi
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
site=$PWD/build/gpu-site

if [ "$device" = cuda ]; then
    nvidia-smi --query-gpu=name,driver_version,memory.total,compute_cap --format=csv,noheader >"$out/nvidia-smi.txt"
fi

steps=()
step() { # step NAME SECONDS COMMAND...: runs it under a time limit; a failure is recorded and the rest still runs
    local name=$1 limit=$2 began=$SECONDS status=0
    shift 2
    echo "=== $name"
    timeout "$limit" "$@" >"$out/$name.log" 2>&1 || status=$?
    tail -n 3 "$out/$name.log"
    steps+=("$name $status $((SECONDS - began))")
}

step build 140 "$python" -m pip install --disable-pip-version-check --no-build-isolation --no-deps --upgrade --target "$site" .
export PYTHONPATH=$site OMP_NUM_THREADS=1
step tests 170 "$python" -m pytest -p no:benchmark -n auto --maxprocesses 4 tests/build/test_core.py tests/ops tests/models -p no:cacheprovider
unset OMP_NUM_THREADS
step benchmarks 140 "$python" -m pytest benchmarks/test_refine_gpu.py --benchmark-only --device "$device" "${options[@]}" \
    --benchmark-json "$out/benchmark.json" -p no:cacheprovider
step report 20 "$python" -m benchmarks.report "$out/benchmark.json" --save "$out"

"$python" - "$out" "$device" "${steps[@]}" <<'PY'
import json
import sys
from pathlib import Path

from benchmarks import machine

out, device = Path(sys.argv[1]), sys.argv[2]
smi = out / "nvidia-smi.txt"
steps = {}
for line in sys.argv[3:]:
    name, status, seconds = line.split()
    last = (out / f"{name}.log").read_text().strip().splitlines()[-1:]
    steps[name] = {"status": int(status), "seconds": int(seconds), "last_line": "".join(last)}
result = {
    "device": device,
    "nvidia_smi": smi.read_text().strip() if smi.exists() else None,
    "machine": machine.describe(device),
    "steps": steps,
}
(out / "check.json").write_text(json.dumps(result, indent=1) + "\n")
print(json.dumps(steps, indent=1))
sys.exit(any(step["status"] for step in steps.values()))
PY
