"""The rule for the precision of a target model's forward pass, and that a learner follows it."""

import dataclasses

import pytest
import torch

from dtag_fast.algorithms import create, preset_config, target_precision
from dtag_fast.algorithms.target_precision import WIDE, choose_target_precision


@pytest.mark.parametrize(
    "asked, width, sets, precision, reason",
    [
        ("fp32", WIDE, ["avx512amx"], "fp32", "asked for"),
        ("bf16", 8, [], "bf16", "asked for"),
        ("auto", WIDE, ["avx2", "avx512amx"], "bf16", "the CPU has AMX"),
        ("auto", WIDE - 1, ["avx512amx"], "fp32", f"tokens are {WIDE - 1} wide, bf16 pays from {WIDE} on"),
        ("auto", WIDE, ["avx512bf16"], "fp32", "the device is not known to multiply bf16 much faster"),
        ("auto", WIDE, [], "fp32", "the device is not known to multiply bf16 much faster"),
    ],
)
def test_on_a_cpu(monkeypatch, asked, width, sets, precision, reason):
    monkeypatch.setattr(target_precision, "instruction_sets", lambda: sets)
    assert choose_target_precision(asked, width, torch.device("cpu")) == (precision, reason)


@pytest.mark.parametrize("has, precision", [(True, "bf16"), (False, "fp32")])
def test_on_a_gpu(monkeypatch, has, precision):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has)
    assert choose_target_precision("auto", WIDE, torch.device("cuda"))[0] == precision


@pytest.mark.parametrize("sets, precision", [(["avx512amx"], "bf16"), ([], "fp32")])
def test_a_learner_says_and_does_it(monkeypatch, store, sets, precision):
    """Targets are those of the precision that was chosen."""
    monkeypatch.setattr(target_precision, "instruction_sets", lambda: sets)
    small = {"context_len": 3, "eval_context_len": 2, "d_model": WIDE, "n_layer": 1, "n_head": 2}
    config = dataclasses.replace(preset_config("td3-odt", store.metadata), **small, batch_size=8)
    auto, asked = (
        create("td3-odt", store, dataclasses.replace(config, target_precision=p)) for p in ("auto", precision)
    )
    assert auto.explain().startswith(f"the target model's forward pass in {precision} (")
    batch = auto.make_sampler(store).sample(torch.Generator().manual_seed(0))
    assert torch.equal(auto._targets(batch), asked._targets(batch))
