#!/usr/bin/env bash
# Fuzzes the compiled core on an AddressSanitizer + UndefinedBehaviorSanitizer build: as a C++ program, then through Python. The
# sanitized copy of the package lies beside the usual one (build/sanitized-site). Called by `make sanitize`.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$PWD/.venv/bin/python
site=$PWD/build/sanitized-site

DTAG_CUDA=OFF DTAG_SANITIZE=address,undefined "$python" -m pip install --disable-pip-version-check --no-build-isolation --no-deps \
    --upgrade --target "$site" .
export UBSAN_OPTIONS=print_stacktrace=1 OMP_NUM_THREADS=1
fuzz_plan=$(ls -t build/*-address-undefined/fuzz_plan | head -n 1)
echo "$fuzz_plan"
# One of the programs beside the others; what it says is looked at when all have ended.
said=$(mktemp)
"$fuzz_plan" >"$said" &
plan=$!
trap 'kill $plan 2>/dev/null || true; rm -f "$said"' EXIT

# What a Python that is not sanitized itself must load before all else.
preload=$("$python" -c "from tools.simt import runtime_libraries; print(runtime_libraries())")
# Leaks are not looked for here: Python keeps memory to the end on purpose. One program per core.
printf '%s\0' tests/csrc/fuzz_*.py |
    xargs -0 -n 1 -P "$(nproc --all)" env ASAN_OPTIONS=detect_leaks=0 PYTHONPATH="$site" LD_PRELOAD="$preload" "$python"
wait $plan
cat "$said"
for isa in baseline emulated512 emulated512bf16 emulated512amx; do
    [[ " $(cat "$said") " == *" $isa "* ]] || { echo "error: $fuzz_plan left out $isa" >&2; exit 1; }
done
echo "sanitizers: nothing found"
