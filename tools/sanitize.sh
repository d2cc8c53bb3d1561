#!/usr/bin/env bash
# Runs the fuzz of the compiled core on an AddressSanitizer + UndefinedBehaviorSanitizer build of it. The sanitized copy of the
# package lies beside the usual one (build/sanitized-site) and is found first through PYTHONPATH. Called by `make sanitize`.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$PWD/.venv/bin/python
site=$PWD/build/sanitized-site

DTAG_SANITIZE=address,undefined "$python" -m pip install --disable-pip-version-check -q --no-build-isolation --no-deps \
    --upgrade --target "$site" .

# Python itself is not sanitized, so the runtime must be loaded before it; libstdc++ too, or the runtime cannot see exceptions.
compiler=${CXX:-c++}
library() { $compiler -print-file-name="$1"; }
runtime=$(library libasan.so)
if [ ! -e "$runtime" ]; then
    runtime=$(library "libclang_rt.asan-$(uname -m).so") # clang's name for it
fi
# Leaks are not looked for: Python and torch keep memory to the end on purpose.
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1
export OMP_NUM_THREADS=1 PYTHONPATH=$site LD_PRELOAD="$runtime $(library libstdc++.so)"
exec "$python" -m pytest tests/csrc -m "slow or not slow" -p no:cacheprovider "$@"
