// A sequence policy that acts step by step on the CPU: packed weights, one call, and the kernel's door. Plain structs, read by
// the translation units of every instruction set (see packed.h); built by decoder_plan.cpp.
//
// Window: a rollout's last K steps of three tokens, in the order of time. Step t has its tokens in the slots 3 (t mod K) and
// following of rings of 3K slots, so a window begins at a slot and runs around the end of the ring.
#pragma once
#include <cstdint>

namespace dtag {

// y = W x + b for rows x. Outputs are cut into panels of `panel_width` (whole vectors; zeros behind the last output);
// in a panel the weights of each input follow each other. Of a bf16 matrix the rows x are rounded to bf16 too, and the weights
// have bf16 values: numbers of float32 as above, or, where the kernels take pairs, words of two inputs each (the first in the
// lower half), inputs filled up with zeros to a multiple of kPairedInputs.
constexpr int kPairedInputs = 32;
struct PanelMatrix {
  int in = 0, out = 0, padded = 0;  // padded: outputs with the zeros
  bool bf16 = false;
  const void* panels = nullptr;
  const float* bias = nullptr;  // [padded]
};

struct NormWeights {
  const float *scale = nullptr, *shift = nullptr;
  float eps = 0.f;
};

struct BlockWeights {
  PanelMatrix query, key_value, out, expand, contract;
  NormWeights norm_1, norm_2;
};

struct DecoderWeights {
  int state_dim = 0, action_dim = 0, context_len = 0, max_timestep = 0;  // S, A, K, rows of the table
  int d_model = 0, n_head = 0, n_layer = 0;                              // D, H, blocks
  bool pre_norm = false, gelu = true;
  bool bf16 = false;              // matrices of the blocks; embeddings and heads are float32
  bool predicts_returns = false;  // tokens (s, R, a), R from the state's token; else (R, s, a)
  PanelMatrix embed_state, embed_action, embed_return, action_head, return_head;
  const float* timesteps = nullptr;  // [max_timestep][D]
  NormWeights embed_norm, final_norm;
  bool has_final_norm = false;
  const float *centre = nullptr, *half_range = nullptr;  // [A] bounds behind tanh; null: the head's outputs as they are
  const BlockWeights* blocks = nullptr;
};

// What is kept of N rollouts, [N][3K][...] each.
struct DecoderRings {
  float* tokens = nullptr;      // [D]
  float* projected = nullptr;   // [3][D]: queries, keys and values of the first block
  float* const* kept = nullptr;  // of each later block [2][D]: keys and values
  int64_t rollouts = 0;
};

// One step of R rollouts, each of any age.
struct DecoderCall {
  const int64_t* rows = nullptr;       // [R] rollouts, each at most once; null: 0 .. R - 1
  const int64_t* timesteps = nullptr;  // [R]
  const float* previous_actions = nullptr;  // [R][A] executed at t - 1; not read where t = 0
  const float* states = nullptr;            // [R][S] standardised
  const float* returns = nullptr;           // [R] scaled; null where they are predicted
  float* actions = nullptr;                 // [R][A]
  float* predicted = nullptr;               // [R] where returns are predicted
  int64_t count = 0;                        // R
};

struct DecoderKernels {
  int panel_width = 0;
  bool pairs = false;  // of bf16 matrices
  // Bytes of scratch for up to `sequences` rollouts, their tokens computed in groups of up to `tokens`, which no rollout exceeds.
  int64_t (*scratch)(const DecoderWeights&, int64_t sequences, int64_t tokens);
  // Rollouts begin .. end of the call, with scratch for as many.
  void (*run)(const DecoderWeights&, const DecoderRings&, const DecoderCall&, int64_t begin, int64_t end, int64_t tokens,
              float* scratch);
};

// Tokens whose hidden states a step at time t computes: all of a window that has slid, else the new ones.
static inline int64_t tokens_to_compute(const DecoderWeights& w, int64_t t) {
  const int64_t known = w.predicts_returns ? 1 : 2;  // of the present step, before anything is predicted
  if (t >= w.context_len) return 3 * (int64_t(w.context_len) - 1) + known;
  return t == 0 ? known : known + 1;
}

}  // namespace dtag
