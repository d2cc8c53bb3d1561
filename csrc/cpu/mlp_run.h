// Training of small networks: the division of a pass among threads. Each throws std::bad_alloc.
#pragma once
#include "cpu/kernels.h"

namespace dtag {

// Numbers of a row with the zeros behind it, and those that MlpCall::hidden needs.
int mlp_padded(int width, const Kernels& kernels);
int64_t mlp_hidden_size(const MlpCall& call, const Kernels& kernels);

void mlp_forward(const MlpCall& call, const Kernels& kernels, int threads);
void mlp_backward(const MlpCall& call, const MlpGradients& gradients, const Kernels& kernels, int threads);

}  // namespace dtag
