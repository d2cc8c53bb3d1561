#pragma once
#include <cstdint>

namespace dtag {

enum class Activation : int32_t { identity, relu, leaky_relu, elu, gelu, gelu_tanh, silu, mish, tanh, softplus };

}  // namespace dtag
