#!/usr/bin/env bash
# Makes .venv and installs dtag_fast in it for development. Called by make; safe to run again.
#   tools/setup_venv.sh robotics,test        the extras to install
# PYTHON names the interpreter (default: the first python3 that is new enough), CXX the compiler.
set -euo pipefail
cd "$(dirname "$0")/.."
extras=$1
venv=.venv

fail() {
    echo "error: $*" >&2
    exit 1
}

find_python() {
    local candidate found=""
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        command -v "$candidate" >/dev/null || continue
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
        found+=" $("$candidate" --version 2>&1)"
    done
    fail "dtag_fast needs Python 3.11 or newer and found${found:- none}: install one, or name it with PYTHON=/path/to/python3."
}

make_venv() {
    local python
    python=$(find_python)
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python has no venv module: install it (Debian: apt install python3-venv), or name another Python with PYTHON=."
    "$python" -m venv --clear $venv
}

check_compiler() {
    [ "${DTAG_BUILD:-1}" = 0 ] && return
    local candidate
    for candidate in ${CXX:-c++ g++ clang++}; do
        command -v "$candidate" >/dev/null && return
    done
    fail "dtag_fast needs a C++20 compiler and found none: install g++ or clang (Debian: apt install g++), or set DTAG_BUILD=0 to go without the compiled CPU backend."
}

# Without an NVIDIA GPU, torch's default Linux build would bring gigabytes of CUDA libraries for nothing.
install_cpu_torch() {
    if [ "$(uname -s)" != Linux ] || [ -e /dev/nvidiactl ] || command -v nvidia-smi >/dev/null; then
        return
    fi
    local version
    version=$(sed -n 's/^torch==//p' constraints.txt)
    pip install --no-deps "torch==$version+cpu" && return
    echo "pip's indexes have no CPU build of torch $version: installing the default build, with its CUDA libraries." \
        "PIP_EXTRA_INDEX_URL may name PyTorch's index of CPU builds." >&2
}

pip() { $venv/bin/python -m pip --disable-pip-version-check "$@"; }

check_compiler
if ! $venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    make_venv
fi
install_cpu_torch
# The build tools go into the environment, so that a rebuild need not fetch them again.
pip install -c constraints.txt setuptools wheel pybind11 cmake ninja
PATH="$PWD/$venv/bin:$PATH" pip install --no-build-isolation -c constraints.txt -e ".[$extras]"
