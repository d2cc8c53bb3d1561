#!/usr/bin/env bash
# What only a machine with an NVIDIA GPU can show: builds the package beside the sources, runs the tests that use a GPU when there
# is one, times refine against its peers, runs the micro-benchmarks, and lets compute-sanitizer watch the kernels. Needs no
# network: the Python on PATH must hold torch, pytest, pytest-benchmark, pytest-xdist, hypothesis, pybind11 and setuptools;
# captured training and acting are tested where gymnasium and safetensors are installed too. Ends
# within 8 minutes: what does not fit any more is left out and recorded so.
#   tools/gpu_check.sh OUT                  writes OUT/check.json, OUT/<gpu>-<date>.json, OUT/micro.json and the logs
#   tools/gpu_check.sh OUT --part refine    refine alone; --part sequence: attention, embedding, captured steps; without it
#                                           refine first and of the others what still fits
#   tools/gpu_check.sh OUT --device cpu     the same steps without a GPU and without hurry, to try the script
set -euo pipefail
out=${1:?usage: tools/gpu_check.sh OUT [--part refine|sequence] [--device cpu]}
shift
device=cuda
part=all
while [ $# -gt 0 ]; do
    case $1 in
    --device) device=${2:?--device takes cuda or cpu} ;;
    --part) part=${2:?--part takes refine or sequence} ;;
    *) echo "unknown option $1" >&2 && exit 2 ;;
    esac
    shift 2
done
case $part in all | refine | sequence) ;; *) echo "--part takes refine or sequence, got $part" >&2 && exit 2 ;; esac
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
site=$PWD/build/gpu-site
slack=1 # on trial, on whatever machine: the steps have longer
if [ "$device" = cpu ]; then slack=6; fi
total=$((460 * slack)) # seconds; reporting comes after it
if ! command -v nvcc >/dev/null && [ -x /usr/local/cuda/bin/nvcc ]; then export PATH=$PATH:/usr/local/cuda/bin; fi

# For this GPU alone, or on trial for one kind: the build's default is three architectures.
arch=90a
if capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader -i 0 2>/dev/null) && [ "$capability" != 9.0 ]; then
    arch=${capability/./}
fi
export CMAKE_CUDA_ARCHITECTURES=${CMAKE_CUDA_ARCHITECTURES:-$arch}

gpu_state() { "$python" -c 'import json; from benchmarks.cuda import run; print(json.dumps(run.device()))'; }
gpu_state >"$out/nvidia-smi.json" # the clocks at rest

log=$out/steps.tsv
: >"$log"
rm -f "$out"/benchmark-*.json "$out/micro.json"
record() { printf '%s\t%s\t%s\t%s\n' "$@" >>"$log"; } # record NAME STATUS SECONDS REASON; at once, so that nothing is lost
skip() { # skip NAME REASON
    echo "=== $1: skipped, $2"
    record "$1" skipped 0 "$2"
}
step() { # step NAME SECONDS COMMAND...: runs it under a time limit; a failure is recorded and the rest still runs
    local name=$1 limit=$(($2 * slack)) began=$SECONDS status=0
    shift 2
    if [ $((total - SECONDS)) -lt "$limit" ]; then limit=$((total - SECONDS)); fi
    if [ "$limit" -lt 10 ]; then
        skip "$name" "no time left"
        return
    fi
    echo "=== $name"
    # An interrupt first: pytest then still writes what it has.
    timeout --signal INT --kill-after 10 "$limit" "$@" >"$out/$name.log" 2>&1 || status=$?
    tail -n 3 "$out/$name.log"
    record "$name" "$status" $((SECONDS - began)) ""
}

step build 240 "$python" -m pip install --disable-pip-version-check --no-build-isolation --no-deps --upgrade --target "$site" .
export PYTHONPATH=$site
pytest=("$python" -m pytest -p no:cacheprovider)
options=(--benchmark-only --device "$device" --prepare-seconds 35)
first=(1 4096)
last=(65536 64)
if [ "$device" = cpu ]; then
    options+=(--without-compile --seconds 1)
    first=(1)
    last=(64)
fi
benchmarks() { # benchmarks BATCH...: a process each, so that one that crashes takes no other's times with it
    local batch
    for batch in "$@"; do
        step "benchmarks-$batch" 75 "${pytest[@]}" "benchmarks/test_refine_gpu.py::test_refine_gpu[B=$batch]" -s "${options[@]}" \
            --benchmark-json "$out/benchmark-$batch.json"
    done
}

check_refine() {
    OMP_NUM_THREADS=1 step tests 110 "${pytest[@]}" -p no:benchmark -n auto --maxprocesses 4 tests/build/test_core.py tests/ops/refine
    benchmarks "${first[@]}"

    if ! command -v nvcc >/dev/null; then
        skip micro "no nvcc"
    elif [ "$device" = cpu ]; then
        step micro 90 "$python" benchmarks/cuda/run.py --compile-only
    else
        step micro 90 "$python" benchmarks/cuda/run.py --arch "sm_$arch" --out "$out/micro.json" --seconds 45
    fi

    local sanitizer beside tool
    sanitizer=$(command -v compute-sanitizer || true)
    beside=$(dirname "$(command -v nvcc || echo /nowhere/nvcc)")/compute-sanitizer
    if [ -z "$sanitizer" ] && [ -x "$beside" ]; then sanitizer=$beside; fi
    for tool in memcheck racecheck synccheck; do
        if [ "$device" = cpu ]; then
            skip "$tool" "needs a GPU"
        elif [ -z "$sanitizer" ]; then
            skip "$tool" "no compute-sanitizer on PATH or beside nvcc"
        else
            # Without torch's cache each tensor is an allocation of its own, with ends that can be overrun.
            PYTORCH_NO_CUDA_MEMORY_CACHING=1 OMP_NUM_THREADS=1 step "$tool" 60 "$sanitizer" --tool "$tool" --error-exitcode 9 \
                "${pytest[@]}" -p no:benchmark -p no:xdist tests/ops/refine/test_gpu_tensors.py -k small
        fi
    done
    benchmarks "${last[@]}"
}

check_sequence() {
    # Triton compiles a kernel for each shape and option: seconds each, on as many cores as there are.
    OMP_NUM_THREADS=1 step tests-sequence 120 "${pytest[@]}" -p no:benchmark -n auto --maxprocesses 8 \
        tests/ops/attention tests/ops/embedding tests/ops/block tests/ops/test_sequence_graphs.py tests/models
    # These import gymnasium and safetensors.
    OMP_NUM_THREADS=1 step tests-captured 60 "${pytest[@]}" -p no:benchmark -n auto --maxprocesses 8 \
        tests/training/test_capture_gpu.py tests/rollout/test_captured.py
    local name
    for name in training_steps policy_steps; do
        step "benchmarks-$name" 90 "${pytest[@]}" "benchmarks/test_steps_gpu.py::test_${name}_gpu" -s "${options[@]}" \
            --benchmark-json "$out/benchmark-$name.json"
    done
    for name in block embedding attention; do
        step "benchmarks-$name" 75 "${pytest[@]}" "benchmarks/test_sequence_gpu.py::test_${name}_gpu" -s "${options[@]}" \
            --seconds 1 --benchmark-json "$out/benchmark-$name.json"
    done
}

if [ "$part" != sequence ]; then check_refine; fi
if [ "$part" != refine ]; then check_sequence; fi

total=$((SECONDS + 30))
step report 30 "$python" -m benchmarks.report "$out"/benchmark-*.json --save "$out"

"$python" - "$out" "$device" <<'PY'
import json
import sys
from pathlib import Path

from benchmarks import machine
from benchmarks.cuda import run

out, device = Path(sys.argv[1]), sys.argv[2]
steps = {}
for line in (out / "steps.tsv").read_text().splitlines():
    name, status, seconds, reason = line.split("\t")
    if status == "skipped":
        steps[name] = {"skipped": reason}
        continue
    last = (out / f"{name}.log").read_text(errors="replace").strip().splitlines()[-1:]
    steps[name] = {"status": int(status), "seconds": int(seconds), "last_line": "".join(last)}
try:
    about = machine.describe(device)
except Exception as error:  # the steps are worth keeping when the device is not there any more
    about = {"error": str(error)}
at_rest = json.loads((out / "nvidia-smi.json").read_text())
result = {"device": device, "nvidia_smi_before": at_rest, "nvidia_smi": run.device(), "machine": about, "steps": steps}
(out / "check.json").write_text(json.dumps(result, indent=1) + "\n")
print(json.dumps(steps, indent=1))
sys.exit(any(step.get("status") for step in steps.values()))
PY
