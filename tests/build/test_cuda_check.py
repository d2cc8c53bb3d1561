"""`make cuda-check` reads nvcc's account of the kernels rightly, and a kernel that spills does not pass."""

import importlib
import json
import shutil

import pytest

# nvcc 13.0 -Xptxas -v, names shortened.
PTXAS = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN12_GLOBAL__N_17refineILi8ELi256EEEvPKfi' for 'sm_90a'
ptxas info    : Function properties for _ZN12_GLOBAL__N_17refineILi8ELi256EEEvPKfi
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 119 registers, used 1 barriers, 10280 bytes smem
ptxas info    : Compile time = 245.109 ms
ptxas info    : Compiling entry function '_Z5spillPf' for 'sm_80'
ptxas info    : Function properties for _Z5spillPf
    16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 255 registers, used 0 barriers, 16 bytes cumulative stack size, 388 bytes cmem[0]
"""

SASS = """\
\tcode for sm_90a
\t\tFunction : _Z5spillPf
\t.headerflags\t@"EF_CUDA_SM90 EF_CUDA_VIRTUAL_SM(EF_CUDA_SM90)"
        /*0000*/                   LDC R1, c[0x0][0x28] ;                   /* 0x00000a00ff017b82 */
                                                                            /* 0x000fe20000000800 */
        /*00e0*/                   STL [R1], R6 ;                           /* 0x0000000601007387 */
        /*0890*/                   HMMA.16816.F32.BF16 R48, R196.reuse, R46, RZ ;
        /*f130*/              @!P0 LDL.LU.64 R10, [R1] ;
        /*f140*/             @!UP0 FFMA R1, R2, R3, R4 ;
        /*10f40*/                  HGMMA.64x256x16.F32.BF16 R24, R4, gdesc[UR4], R24 ;
\t\tFunction : _Z5emptyv
        /*0000*/                   EXIT ;
"""

FINE = {
    "file": "refine.cu",
    "kernel": "refine<8>",
    "arch": "sm_90a",
    "registers": 119,
    "stack": 0,
    "spill_stores": 0,
    "spill_loads": 0,
    "static_smem": 10280,
    "barriers": 1,
    "dynamic_smem": None,
    "sass": {"LDL": 0, "STL": 0, "FFMA": 141, "HMMA": 0, "HGMMA": 7},
}


@pytest.fixture
def tool(sources, monkeypatch):
    monkeypatch.syspath_prepend(str(sources))
    return lambda name: importlib.import_module(f"tools.{name}")


def test_registers_spills_and_shared_memory_are_read(tool):
    fine, spilling = tool("ptxas").resources(PTXAS)
    assert fine == {
        "mangled": "_ZN12_GLOBAL__N_17refineILi8ELi256EEEvPKfi",
        "arch": "sm_90a",
        "registers": 119,
        "stack": 0,
        "spill_stores": 0,
        "spill_loads": 0,
        "static_smem": 10280,
        "barriers": 1,
    }
    assert (spilling["arch"], spilling["registers"], spilling["static_smem"]) == ("sm_80", 255, 0)
    assert (spilling["stack"], spilling["spill_stores"], spilling["spill_loads"]) == (16, 12, 8)


def test_instructions_are_counted_by_kernel(tool):
    counted = tool("ptxas").instructions(SASS)
    assert counted["_Z5spillPf"] == {"LDL": 1, "STL": 1, "FFMA": 1, "HMMA": 1, "HGMMA": 1}
    assert counted["_Z5emptyv"] == {"LDL": 0, "STL": 0, "FFMA": 0, "HMMA": 0, "HGMMA": 0}


@pytest.mark.parametrize(
    ("demangled", "short"),
    [
        ("void (anonymous namespace)::refine<8, 256>(float const*, int)", "refine<8, 256>"),
        ("void _GLOBAL__N__a6cb5a30_9_probe_cu_main::refine<8>(P, int)", "refine<8>"),
        ("void dtag::tile<dtag::Shape<16, 4> >(dtag::Params)", "dtag::tile<dtag::Shape<16, 4>>"),
        ("void chained<(Between)2>(unsigned short const*)", "chained<(Between)2>"),
        ("_Z4namev", "_Z4namev"),
    ],
)
def test_a_kernel_is_named_without_what_differs_between_machines(tool, demangled, short):
    assert tool("ptxas").short_name(demangled) == short


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"spill_stores": 12, "spill_loads": 8}, "spills registers (12 bytes stored, 8 loaded)"),
        ({"stack": 16}, "stack frame of 16 bytes"),
        ({"sass": {"LDL": 1, "STL": 2}}, "local memory (1 LDL, 2 STL)"),
        ({"dynamic_smem": 222168 + 1}, "asks for 232449 bytes of shared memory, the device has 232448"),
        ({"arch": "sm_80", "dynamic_smem": 160 * 1024}, "the device has 166912"),
    ],
)
def test_a_kernel_that_must_not_pass_is_named_with_its_fault(tool, change, said):
    (sentence,) = tool("cuda_check").faults(FINE | change)
    assert sentence.startswith("refine<8> for sm_") and said in sentence


@pytest.mark.parametrize("change", [{}, {"sass": None}, {"dynamic_smem": 222168}])
def test_a_kernel_that_may_pass_has_no_fault(tool, change):
    assert tool("cuda_check").faults(FINE | change) == []


def test_flags_are_those_of_the_build(tool, tmp_path):
    source = tmp_path / "csrc/cuda"
    target = "'--generate-code=arch=compute_90a,code=[sm_90a]'"
    command = (
        f"nvcc -forward-unknown-to-host-compiler -DX=1 -I{tmp_path}/csrc -isystem /opt/include -O3 "
        f"-std=c++20 {target} -fmad=false -MD -MT a.o -MF a.o.d -x cu -c {source}/a.cu -o a.o"
    )
    entries = [
        {"directory": str(tmp_path), "command": "c++ -O1 -c x.cpp -o x.o", "file": "x.cpp"},
        {"directory": str(tmp_path), "command": command, "file": f"{source}/a.cu"},
    ]
    file = tmp_path / "compile_commands.json"
    file.write_text(json.dumps(entries))
    check = tool("cuda_check")
    flags, folder = check.flags_of_the_build([file], source)
    assert folder == tmp_path
    kept = ["-forward-unknown-to-host-compiler", "-DX=1", f"-I{tmp_path}/csrc", "-isystem", "/opt/include"]
    assert flags == [*kept, "-O3", "-std=c++20", "-fmad=false"]
    shown = "-forward-unknown-to-host-compiler -DX=1 -Icsrc -O3 -std=c++20 -fmad=false"
    assert check.shown(flags, tmp_path) == shown
    file.write_text(json.dumps(entries[:1]))
    assert check.flags_of_the_build([file], source) is None


def test_shared_memory_given_at_launch_is_declared_by_name(tool):
    dynamic_bytes = tool("cuda_check").dynamic_bytes
    declared = {"refine<*>": 100, "refine<8>": 200, "other*": 5}
    assert dynamic_bytes("refine<8>", declared) == 200
    assert dynamic_bytes("refine<4>", declared) == 100
    assert dynamic_bytes("third", declared) is None


def test_without_nvcc_it_says_so_and_passes(tool, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tool("cuda_check").main([], tmp_path) == 0
    assert capsys.readouterr().out.startswith("no nvcc: skipped, ")


@pytest.mark.parametrize(
    ("sass", "note"), [(FINE["sass"], "count instructions"), (None, "was not looked at (no cuobjdump)")]
)
def test_the_table_of_the_documents(tool, tmp_path, sass, note):
    (tmp_path / "docs/results").mkdir(parents=True)
    kernels = [FINE | {"sass": sass, "dynamic_smem": 65536}]
    result = {"format": 1, "nvcc": "13.0.88", "flags": "-O3", "kernels": kernels}
    (tmp_path / "docs/results/cuda-resources.json").write_text(json.dumps(result))
    (tmp_path / "docs/page.md").write_text("<!-- table:cuda_resources -->\n<!-- /table:cuda_resources -->\n")
    assert tool("make_tables").main([], tmp_path) == 0
    text = (tmp_path / "docs/page.md").read_text()
    counts = "141 | 0 | 7 |" if sass else " |  |  |"
    assert f"| `refine<8>` | sm_90a | 119 | 0 / 0 / 0 | 10,280 + 65,536 | 1 | {counts}" in text
    assert note in text and "nvcc 13.0.88" in text


def test_a_file_may_name_the_least_capability_it_is_for(tool, tmp_path):
    file = tmp_path / "kernel.cu"
    architectures = ["sm_80", "sm_90a", "sm_100"]
    file.write_text("#include <cuda_runtime.h>\n")
    assert tool("cuda_check").targets(file, architectures) == architectures
    file.write_text("// For compute capability 9.0 and later: clusters of blocks.\n")
    assert tool("cuda_check").targets(file, architectures) == ["sm_90a", "sm_100"]
    file.write_text("// For compute capability 9.0a alone: products of a warpgroup.\n")
    assert tool("cuda_check").targets(file, architectures) == ["sm_90a"]


def test_products_in_a_row_are_read(tool):
    text = (
        "ptxas info    : (C7512) Potential Performance Loss: wgmma.mma_async instructions are serialized "
        "due to insufficient register resources for the function '_Z5spillPf'\n"
    )
    reason = "wgmma.mma_async instructions are serialized due to insufficient register resources"
    assert tool("ptxas").losses(PTXAS + text) == [("_Z5spillPf", reason)]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("nvcc"), reason="needs nvcc")
def test_a_spilling_kernel_is_found(tool, tmp_path, capsys):
    source = tmp_path / "csrc/cuda"
    source.mkdir(parents=True)
    (source / "a.cu").write_text(
        "__global__ void fine(float* x) { x[threadIdx.x] *= 2; }\n"
        "__global__ void local(float* x, int i) {\n"
        "  float a[64];\n  for (int j = 0; j < 64; ++j) a[(int)x[j] & 63] = x[j];\n"
        "  x[0] = a[i & 63];\n}\n"
    )
    assert tool("cuda_check").main(["--jobs", "1"], tmp_path) == 1
    said = capsys.readouterr()
    result = json.loads((tmp_path / "docs/results/cuda-resources.json").read_text())
    architectures = ["sm_80", "sm_90a", "sm_100"]
    named = [(kernel["kernel"], kernel["arch"]) for kernel in result["kernels"]]
    assert named == [(name, arch) for name in ("fine", "local") for arch in architectures]
    assert str(tmp_path) not in json.dumps(result)
    assert "| `fine` | sm_80 |" in said.out
    assert "local for sm_90a: has a stack frame of 256 bytes." in said.err and "fine" not in said.err
