"""Which CUDA kernel runs a call: the table of csrc/cuda/refine/heuristics.h, asked for several devices."""

import pytest
import torch
from kernel_cases import make_member, make_options, make_program

from dtag_fast.ops.refine.cuda import CudaExecutor
from dtag_fast.ops.refine.options import Variant
from dtag_fast.ops.refine.program import CriticProgram

A100 = {"capability": 80, "multiprocessors": 108, "shared_bytes": 166912}
RTX3090 = {"capability": 86, "multiprocessors": 82, "shared_bytes": 101376}
H100 = {"capability": 90, "multiprocessors": 132, "shared_bytes": 232448}
B200 = {"capability": 100, "multiprocessors": 148, "shared_bytes": 232448}


@pytest.fixture
def choice():
    """choice(device, program, states, candidates): how the call runs, and why not otherwise."""
    core = pytest.importorskip("tools.simt", reason="needs the sources beside the tests").load()

    def ask(device, program, states=1, candidates=1, options=None, **only):
        core.set_device(**device)
        executor = CudaExecutor(
            program, make_options(program.action_dim, **(options or {})), core=core, **only
        )
        return executor.describe_call(states, candidates)

    yield ask
    core.set_device(seed=0)


STANDARD = make_program(hidden=(256, 256))


@pytest.mark.parametrize("device", [H100, B200], ids=["H100", "B200"])
def test_few_rows_go_to_a_cluster_where_there_are_clusters(choice, device):
    how, others = choice(device, STANDARD)
    assert how == "latency kernel, 1 rows in a cluster of 8 blocks, fp32"
    (other,) = others
    assert other.startswith("generic kernel") and "slower by prediction" in other
    assert choice(device, STANDARD, 15)[0] == how
    assert choice(device, STANDARD, 65536)[0].startswith("generic kernel, tiles of 64 rows")
    assert choice(device, STANDARD, 1, 4)[0].startswith("latency kernel, 4 rows")


@pytest.mark.parametrize("device", [A100, RTX3090], ids=["A100", "RTX 3090"])
def test_few_rows_go_to_a_group_of_blocks_where_there_are_none(choice, device):
    how, (other,) = choice(device, STANDARD)
    assert how == "latency kernel, 1 rows in a group of 8 blocks that meet in global memory, fp32"
    assert other.startswith("generic kernel, tiles of 4 rows, fp32: slower by prediction")
    groups = device["multiprocessors"] // 8
    assert choice(device, STANDARD, groups)[0] == how and choice(device, STANDARD, groups + 1)[0] != how
    assert choice(H100, STANDARD, clusters=False)[0] == how


def test_two_members_of_512_units_fit_a_cluster_and_a_larger_group(choice):
    wide = make_program(hidden=(512, 512))
    assert choice(H100, wide)[0] == "latency kernel, 1 rows in a cluster of 8 blocks, fp32"
    for device in (A100, RTX3090):
        how, _ = choice(device, wide)
        assert how == "latency kernel, 1 rows in a group of 16 blocks that meet in global memory, fp32"
    _, (other,) = choice(H100, make_program(hidden=(512, 512, 512)))
    assert "512 and 512 units in 2 members do not fit a group of 8 blocks" in other
    _, (other,) = choice(H100, one_member(512, 512, 512, action=31))
    assert other == "the latency kernel needs 259 KiB of shared memory, the device has 227 KiB per block"


def test_tiles_are_as_large_as_shared_memory_and_the_batch_allow(choice):
    def rows_of(batch):
        return int(choice(A100, STANDARD, batch, kernel="generic")[0].split(" of ")[1].split()[0])

    rows = {b: rows_of(b) for b in (1, 500, 4096, 65536)}
    assert rows == {1: 4, 500: 8, 4096: 8, 65536: 32}  # 64 rows need 170 KiB
    assert choice(H100, STANDARD, 65536)[0].startswith("generic kernel, tiles of 64 rows")


def one_member(*hidden, **kwargs):
    return make_program(hidden=hidden, members=1, **kwargs)


def test_each_limit_of_the_latency_kernel_is_a_sentence(choice):
    generator = torch.Generator().manual_seed(0)
    first, act, norm_free, act2, last = make_member(generator, 23, (40, 30))
    two_activations = CriticProgram(17, 6, ((first, act, act, norm_free, act2, last),))
    unlike_depth = CriticProgram(
        17, 6, (make_member(generator, 23, (40, 30)), make_member(generator, 23, (40,)))
    )
    cases = {
        "two or three hidden layers": [one_member(64), one_member(64, 64, 64, 64), unlike_depth],
        "up to 8 members, the critic has 9": [make_program(hidden=(16, 16), members=9)],
        "up to 31 action dimensions": [one_member(64, 64, action=32)],
        "do not fit a group": [one_member(513, 64), make_program(hidden=(256, 256), members=8)],
        "another order": [two_activations],
    }
    for reason, programs in cases.items():
        for program in programs:
            how, (other,) = choice(H100, program)
            assert how.startswith("generic kernel") and reason in other


def test_a_critic_that_fits_no_tile_is_refused_with_its_size(choice):
    deep = one_member(*(2048,) * 7, activations=(("mish", ()),), norm="affine")
    how, _ = choice(RTX3090, deep)
    assert how.startswith("the generic kernel's smallest tile needs") and "the device has 99 KiB" in how
    assert choice(RTX3090, one_member(1024, 1024))[0].startswith("generic kernel")


def test_bf16_goes_to_the_hopper_kernel_where_there_are_warpgroup_products(choice):
    how = {b: choice(H100, STANDARD, b, precision="bf16")[0] for b in (1, 1000, 4096, 65536)}
    assert how[1].startswith("latency kernel")
    assert how[1000] == how[4096] == "Hopper kernel, 64 rows in a cluster of 2 blocks, bf16"
    assert how[65536] == "Hopper kernel, 128 rows in a cluster of 2 blocks, bf16"
    how, others = choice(B200, STANDARD, 4096, precision="bf16")
    assert how.startswith("tensor kernel")
    needs = "the Hopper kernel needs compute capability 9.0 (products of a warpgroup), the device has 10.0"
    assert needs in others
    how, others = choice(H100, STANDARD, 4096, precision="bf16x3")
    assert how.startswith("tensor kernel") and not any("Hopper" in o for o in others)


def test_each_limit_of_the_hopper_kernel_is_a_sentence(choice):
    generator = torch.Generator().manual_seed(0)
    unlike = make_member(generator, 23, (40, 30), activations=(("tanh", ()),))
    cases = {
        "two hidden layers in every member": [one_member(64), one_member(64, 64, 64)],
        "up to 8 members, the critic has 9": [make_program(hidden=(16, 16), members=9)],
        "up to 32 action dimensions, the critic has 33": [one_member(64, 64, action=33)],
        "up to 62 dimensions of state and action together, the critic has 63": [one_member(64, 64, state=57)],
        "up to 256 units, the critic has 257": [one_member(64, 257)],
        "one activation after each hidden layer": [
            one_member(64, 64, norm="affine"),
            CriticProgram(17, 6, (*one_member(40, 30).members, unlike)),
        ],
        "compiled for ReLU": [one_member(64, 64, activations=(("softplus", (1.0, 20.0)),))],
        "KiB of shared memory": [
            make_program(state=50, hidden=(256, 256), members=4, activations=(("mish", ()),))
        ],
    }
    for reason, programs in cases.items():
        for program in programs:
            how, others = choice(H100, program, 4096, precision="bf16")
            assert how.startswith("tensor kernel") and any(reason in other for other in others)


def test_rows_of_several_variants_have_the_generic_kernel(choice):
    several = {"variants": (Variant(), Variant(optimizer="adam"))}
    for states in (1, 65536):
        how, others = choice(H100, STANDARD, states, options=several)
        assert how.startswith("generic kernel, tiles of")
        assert others == ["the latency, tensor and Hopper kernels refine rows of one variant"]
    core = pytest.importorskip("tools.simt").load()
    core.set_device(**H100)
    insisted = CudaExecutor(STANDARD, make_options(**several), core=core, kernel="latency")
    assert insisted.refusal() == "the latency, tensor and Hopper kernels refine rows of one variant"
