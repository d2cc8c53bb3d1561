// What a call of the CPU backend is made of: plain structs of numbers and addresses, no behaviour.
#pragma once
#include <cstdint>

namespace dtag {

enum class Optimizer : int32_t { sgd, adam, rmsprop };
enum class Gradient : int32_t { raw, unit, clip_norm };
enum class Radius : int32_t { none, inf, l2 };
enum class Select : int32_t { best, last };
enum class Reduce : int32_t { min, max, mean, member };  // member: among variants; else a program has that one alone

constexpr int32_t kMaxVariants = 64;  // settings among which the rows of a call choose

// How the ascent moves; fixed for the life of a plan, which may have several of them (variants). Formulas: torch.optim with maximize=True, state zero at each call.
struct Settings {
  Optimizer optimizer = Optimizer::sgd;
  float momentum = 0.f;  // sgd
  bool nesterov = false;
  double beta1 = 0.9, beta2 = 0.999;  // adam; rmsprop's alpha is beta2
  float eps = 1e-8f;
  Gradient gradient = Gradient::raw;
  float clip = 0.f;
  Radius radius_norm = Radius::none;
  float radius = 0.f;
  Select select = Select::best;
  Reduce reduce = Reduce::min;
  int32_t member = 0;  // of Reduce::member
  const float* low = nullptr;  // [A] or null: no bounds
  const float* high = nullptr;
};

// One call. B states, M candidate actions each, A action dimensions, n = largest number of steps.
struct Call {
  const float* states = nullptr;  // [B, S], rows state_stride floats apart
  int64_t state_stride = 0;
  const float* actions = nullptr;  // [B, M, A]
  float* out = nullptr;            // [B, A]
  int64_t batch = 0;
  int32_t candidates = 1;
  int32_t steps = 0;                   // n
  const int32_t* row_steps = nullptr;  // [B] or null: n for every row
  float lr = 0.f;                      // when lr_values is null
  const float* lr_values = nullptr;    // lr of state b, dimension k: lr_values[b * lr_row_stride + k * lr_dim_stride]
  int64_t lr_row_stride = 0, lr_dim_stride = 0;
  // The ascent is in u, with a = a_0 + scale * u.
  float scale = 1.f;                    // when scale_values is null; 1: u is measured as the action
  const float* scale_values = nullptr;  // as lr_values
  int64_t scale_row_stride = 0, scale_dim_stride = 0;
  const float* radius_values = nullptr;  // [B], in units of u, or null: that of the settings
  const int32_t* row_variants = nullptr;  // [B], which of the plan's settings; null where it has one
  // What is climbed is F(s, a) = Q(s, a) - weight / A * sum_k ((a_k - mean_k) / scale_k)^2. Without a prior its weight is 0.
  float prior_mean = 0.f;                    // when prior_mean_values is null
  const float* prior_mean_values = nullptr;  // as lr_values
  int64_t prior_mean_row_stride = 0, prior_mean_dim_stride = 0;
  float prior_weight = 0.f;                    // when prior_weight_values is null
  const float* prior_weight_values = nullptr;  // [B]
  // Details, all null or all set but for the three traces.
  float* q_first = nullptr;           // [B, M]
  float* q_best = nullptr;            // [B, M]
  int32_t* best_index = nullptr;      // [B, M]
  int32_t* best_candidate = nullptr;  // [B]
  float* trace_actions = nullptr;     // [n+1, B, M, A]
  float* trace_q = nullptr;           // [n+1, B, M]
  float* trace_grad = nullptr;        // [n+1, B, M, A]
};

}  // namespace dtag
