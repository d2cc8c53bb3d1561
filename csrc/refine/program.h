// The critic as given by the caller: an ensemble of lists of layers, owned here as plain float32 numbers.
#pragma once
#include <cstdint>
#include <vector>

#include "refine/activation_kind.h"

namespace dtag {

constexpr int kMaxWidth = 2048, kMaxDepth = 8, kMaxState = 4096, kMaxAction = 256, kMaxMembers = 1024;

// What follows a linear layer, element-wise or over its outputs.
struct PostOp {
  bool is_norm = false;
  Activation kind = Activation::identity;
  float p0 = 0.f, p1 = 0.f;         // slope | alpha | beta, threshold; LayerNorm: p0 = eps
  std::vector<float> scale, shift;  // LayerNorm, [width], ones and zeros when it is not affine
};

// y = post(weight @ x + bias): a linear layer and everything up to the next one.
struct Stage {
  int in = 0, out = 0;
  std::vector<float> weight;  // [out, in] row-major
  std::vector<float> bias;    // [out]
  std::vector<PostOp> post;
};

// Q_e(s, a) = stages_e([s | a]); the first stage takes S + A inputs, the last has one output and no post-ops.
struct Program {
  int state_dim = 0, action_dim = 0;
  std::vector<std::vector<Stage>> members;

  // Throws std::invalid_argument naming the member and stage that does not fit.
  void validate() const;
  void validate_structure() const;  // all but how many numbers there are
  bool same_structure(const Program& other) const;
};

}  // namespace dtag
