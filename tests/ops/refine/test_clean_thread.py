"""The thread in which critics are traced."""

import threading

import pytest
import torch

from dtag_fast.ops.refine.clean_thread import in_clean_thread


def state():
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        threading.get_ident(),
    )


def test_nothing_of_the_caller_is_in_force():
    with torch.inference_mode(), torch.autocast("cpu"):
        grad, inference, autocast, thread = in_clean_thread(state)
    assert (grad, inference, autocast) == (True, False, False)
    assert thread != threading.get_ident()


def test_results_and_errors_come_back():
    assert in_clean_thread(lambda: 7) == 7
    with pytest.raises(KeyError, match="gone"):
        in_clean_thread(lambda: {}["gone"])
    with pytest.raises(SystemExit):
        in_clean_thread(lambda: exit(3))


def test_no_thread_stays():
    """One would keep OpenMP workers, which slow torch down everywhere."""
    in_clean_thread(lambda: torch.zeros(300, 300) @ torch.zeros(300, 300))
    before = {thread.name for thread in threading.enumerate()}
    for _ in range(3):
        in_clean_thread(lambda: torch.zeros(300, 300) @ torch.zeros(300, 300))
    assert {thread.name for thread in threading.enumerate()} == before
