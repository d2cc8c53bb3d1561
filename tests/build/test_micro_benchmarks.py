"""The micro-benchmarks in CUDA compile without spills wherever they are meant to run."""

import importlib
import shutil

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("nvcc"), reason="needs nvcc"),
]


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_every_program_compiles_without_spills(sources, monkeypatch, tmp_path, arch):
    monkeypatch.syspath_prepend(str(sources))
    run, ptxas = (importlib.import_module(name) for name in ("benchmarks.cuda.run", "tools.ptxas"))
    compiled = run.compile_all(arch, tmp_path, jobs=2)
    written = {file.stem for file in (sources / "benchmarks/cuda").glob("*.cu")}
    assert set(run.PROGRAMS) == written
    assert compiled
    for name, result in compiled.items():
        assert result["status"] == 0, result["log"]
        kernels = ptxas.resources(result["log"])
        assert kernels
        for kernel in kernels:
            spilled = {key: kernel[key] for key in ("stack", "spill_stores", "spill_loads")}
            assert not any(spilled.values()), f"{name}, {kernel['mangled']}: {spilled}"
