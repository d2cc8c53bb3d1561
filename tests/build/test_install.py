"""What `pip install` does: one sentence without a compiler, a working pure-Python package, small rebuilds."""

import re
import shutil
import zipfile

import pytest

PIP_WHEEL = ("-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "--disable-pip-version-check")

TINY_CMAKE = "add_library(_C MODULE one.cpp two.cpp)\n"
TINY_ONE = """#include <pybind11/detail/common.h>
int two();
static PyObject* call(PyObject*, PyObject*) { return PyLong_FromLong(two()); }
static PyMethodDef methods[] = {{"two", call, METH_NOARGS, nullptr}, {}};
static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, methods};
extern "C" __attribute__((visibility("default"))) PyObject* PyInit__C() { return PyModule_Create(&module); }
"""
TINY_TWO = "int two() { return 2; }\n"

PURE_PYTHON = """
import importlib.util, sys
sys.path.insert(0, sys.argv[1])
# An editable install of this checkout would lend its compiled module to any dtag_fast that lacks one.
sys.meta_path[:] = [finder for finder in sys.meta_path if "ditable" not in repr(finder)]
import torch, dtag_fast
assert dtag_fast.__file__.startswith(sys.argv[1]), dtag_fast.__file__
assert importlib.util.find_spec("dtag_fast._C") is None
critic = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
class Critic(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = critic
    def forward(self, states, actions):
        return self.net(torch.cat([states, actions], -1))
states, actions = torch.randn(7, 3), torch.rand(7, 2) * 2 - 1
better = dtag_fast.refine(Critic(), states, actions)
explanation = dtag_fast.explain(Critic(), states)
assert explanation.backend == "torch" and "cpu" in explanation.reasons, explanation
print(explanation)
q = Critic()
assert (q(states, better) >= q(states, actions)).all() and not torch.equal(better, actions)
"""


@pytest.mark.parametrize("named", [None, "no-such-compiler++"])
def test_a_missing_compiler_is_one_sentence(run, tree, tmp_path, named):
    empty = tmp_path / "bin"
    empty.mkdir()
    result = run(
        "setup.py", "build_ext", "--build-lib", tmp_path, cwd=tree, check=False, PATH=str(empty), CXX=named
    )
    assert result.returncode != 0
    assert "Traceback" not in result.stdout
    (sentence,) = (line for line in result.stdout.splitlines() if line.startswith("error:"))
    assert "needs a C++20 compiler" in sentence and "DTAG_BUILD=0" in sentence
    assert (named or "none") in sentence


@pytest.mark.parametrize(
    ("variable", "value"), [("DTAG_CUDA", "MAYBE"), ("DTAG_SANITIZE", "thread"), ("DTAG_CUDA", "ON")]
)
def test_an_option_that_cannot_be_had_is_named(run, tree, tmp_path, variable, value):
    variables = {variable: value} | ({"CUDACXX": "/no/nvcc"} if value == "ON" else {})
    result = run("setup.py", "build_ext", "--build-lib", tmp_path, cwd=tree, check=False, **variables)
    assert result.returncode != 0
    assert variable in result.stdout and value in result.stdout


def test_without_the_compiled_module_the_package_works(run, tree, tmp_path):
    run(*PIP_WHEEL, "-w", tmp_path, ".", cwd=tree, DTAG_BUILD="0")
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    run("-W", "ignore", "-c", PURE_PYTHON, site, cwd=tmp_path, PYTHONPATH=None)


def test_a_second_build_compiles_only_what_changed(run, tree, tmp_path):
    """On two files in place of csrc, since what is tested is setup.py. One run finds pybind11 at another path
    with new file times, as pip's isolated builds do; the last finds the whole checkout at another path."""
    small = tmp_path / "small"
    shutil.copytree(tree, small, ignore=shutil.ignore_patterns("csrc", "tests"))
    csrc = small / "csrc"
    csrc.mkdir()
    for name, text in {"CMakeLists.txt": TINY_CMAKE, "one.cpp": TINY_ONE, "two.cpp": TINY_TWO}.items():
        (csrc / name).write_text(text)

    import pybind11

    shutil.copytree(pybind11.__path__[0], tmp_path / "elsewhere" / "pybind11", copy_function=shutil.copy)

    def compiled(**variables: str) -> set[str]:
        out = run(
            *("setup.py", "-v", "build_ext", "--build-lib", tmp_path / "lib"),
            cwd=small,
            DTAG_CUDA="OFF",
            **variables,
        ).stdout
        return set(re.findall(r"Building CXX object \S+/(\w+)\.cpp\.o", out))

    assert compiled() == {"one", "two"}
    assert compiled(PYTHONPATH=str(tmp_path / "elsewhere")) == set()
    (csrc / "two.cpp").write_text(TINY_TWO.replace("2;", "1 + 1;"))
    assert compiled() == {"two"}
    moved = small.rename(tmp_path / "moved")
    run("setup.py", "build_ext", "--build-lib", tmp_path / "lib", cwd=moved, DTAG_CUDA="OFF")
    result = run("-c", "import _C; print(_C.two())", cwd=next((tmp_path / "lib").glob("dtag_fast")))
    assert result.stdout.strip() == "2"
