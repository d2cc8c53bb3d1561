"""Whether this machine's matrix products round a row alike in batches of different sizes."""

import torch


def blas_rounds_rows_alike() -> bool:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, 9, 16, generator=generator)
    for width in (2, 16, 48, 64):
        weight = torch.randn(width, 16, generator=generator)
        whole = torch.nn.functional.linear(x, weight)
        if not torch.equal(whole[:8], torch.nn.functional.linear(x[:8].clone(), weight)):
            return False
    return True
