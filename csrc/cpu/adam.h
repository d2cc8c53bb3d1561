// Adam (Kingma and Ba 2015) on the CPU, and the moving average of a target network in the same pass. Plain structs.
#pragma once
#include <cstdint>

namespace dtag {

// One array of parameters with its gradient, moments and, if it has one, the array that follows it.
struct AdamArray {
  float* parameter = nullptr;
  const float* gradient = nullptr;
  float *first = nullptr, *second = nullptr;
  float* follower = nullptr;  // null for none
  int64_t count = 0;
};

//   m <- m + (1 - b1) (g - m),   v <- b2 v + (1 - b2) g^2,   p <- p - step m / (sqrt(v) / root + eps)
//   follower <- follower + polyak (p - follower)
struct AdamStep {
  float beta1 = 0.9f, beta2 = 0.999f, eps = 1e-8f;
  float step = 0.f;  // lr / (1 - b1^t)
  float root = 1.f;  // sqrt(1 - b2^t)
  float polyak = 0.f;
};

}  // namespace dtag
