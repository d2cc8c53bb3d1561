// Networks of linear layers and activations, forwards and backwards, for training on the CPU: several of one shape ("members")
// over the same rows. Plain structs, read by the translation units of every instruction set (see packed.h).
//
//   h_0 = ((x - mean) / std, extra),   z_l = W_l h_{l-1} + b_l,   h_l = activation(z_l) but for the last, whose z_L comes out
//
// With LayerNorm h_l = activation(n_l scale_l + shift_l), n_l = (z_l - mean(z_l)) rstd_l, rstd_l = 1 / sqrt(var(z_l) + eps_l).
// Rows of h_l are kept with zeros behind them, up to whole panels of `panel_width`.
#pragma once
#include <cstdint>

#include "refine/activation_kind.h"

namespace dtag {

struct MlpRows {
  const float* at = nullptr;
  int64_t stride = 0;  // from row to row
  int width = 0;
};

struct MlpCall {
  int members = 0, layers = 0;                       // M, L
  const int* widths = nullptr;                       // [L + 1] numbers of a row: in, hidden layers, out
  Activation activation = Activation::identity;
  const float* const* weights = nullptr;             // [M][L] of (out, in)
  const float* const* biases = nullptr;              // [M][L] of (out,)
  const float* const* scales = nullptr;              // [M][L - 1] of (width,); null: no LayerNorm
  const float* const* shifts = nullptr;              // the same
  const float* eps = nullptr;                        // [L - 1]
  int64_t rows = 0;                                  // R
  MlpRows x, extra;
  const float *mean = nullptr, *std = nullptr;       // [x.width]; null: rows of x as they are
  float* in = nullptr;                               // [R][padded]: h_0; written, unless there is no x
  float* hidden = nullptr;                           // [M][L - 1] of [R][padded]: h_l
  // What the way back also needs, null where there will be none.
  float* before = nullptr;                           // as hidden, of n_l or z_l; null with ReLU alone, whose slope shows in h_l
  float* rstd = nullptr;                             // [M][L - 1][R]; null without LayerNorm
  float* out = nullptr;                              // [M][R][out]
};

struct MlpGradients {
  const float* out = nullptr;          // [M][R][out]
  float* hidden = nullptr;             // as MlpCall::hidden, of z_l; working memory
  float* in = nullptr;                 // [M][R][in] of h_0; null: not wanted
  float* const* weights = nullptr;     // [M][L] of (out, in); null: none wanted
  float* const* biases = nullptr;      // [M][L] of (out,)
  float* const* scales = nullptr;      // [M][L - 1] of (width,); null: no LayerNorm, or none wanted
  float* const* shifts = nullptr;      // the same
  float* sums = nullptr;               // working memory of mlp_backward, see MlpKernels::sums_size
};

struct MlpKernels {
  int panel_width = 0;
  int64_t (*scratch)(const MlpCall&, int64_t rows);  // bytes for `rows` rows of a member at a time
  int64_t (*sums_size)(const MlpCall&);              // numbers that MlpGradients::sums must hold
  void (*forward)(const MlpCall&, int member, int64_t begin, int64_t end, float* scratch);
  // Gradients of z_l and the input in these rows.
  void (*backward)(const MlpCall&, const MlpGradients&, int member, int64_t begin, int64_t end, float* scratch);
  // Those of weights, biases and LayerNorms over all rows, in pieces 0 .. pieces - 1 of a member.
  int (*pieces)(const MlpCall&);
  void (*weights)(const MlpCall&, const MlpGradients&, int member, int piece);
};

}  // namespace dtag
