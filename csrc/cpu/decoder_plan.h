// A sequence policy bound to one instruction set: packed weights and the division of a step among threads.
#pragma once
#include <memory>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/pack.h"

namespace dtag {

// Numbers as a model holds them; read while packing, but for the table of timesteps, which calls read where it is.
struct DecoderNumbers {
  struct Linear {
    const float *weight = nullptr, *bias = nullptr;  // (out, in), (out,)
    int out = 0, in = 0;
  };
  struct Norm {
    const float *scale = nullptr, *shift = nullptr;
    float eps = 0.f;
  };
  struct Block {
    Linear qkv, out, expand, contract;
    Norm norm_1, norm_2;
  };
  Linear embed_state, embed_action, embed_return, action_head, return_head;
  Norm embed_norm, final_norm;
  const float *timesteps = nullptr, *centre = nullptr, *half_range = nullptr;
  std::vector<Block> blocks;
};

class DecoderPlan {
 public:
  // `shape`: its dimensions and switches; the rest is filled in here. A matrix with a weight that bf16 cannot hold as a finite
  // number stays float32.
  DecoderPlan(const DecoderWeights& shape, const DecoderNumbers& numbers, const Kernels& kernels);

  const DecoderWeights& weights() const { return weights_; }
  const Kernels& kernels() const { return kernels_; }

  // On up to `threads` threads. Throws std::bad_alloc.
  void run(const DecoderRings& rings, const DecoderCall& call, int threads) const;

 private:
  PanelMatrix panels(const DecoderNumbers::Linear& from, int first, int count, bool bf16);
  PanelMatrix panels(const DecoderNumbers::Linear& from) { return panels(from, 0, from.out, false); }
  NormWeights norm(const DecoderNumbers::Norm& from);
  const float* kept(const float* numbers, int count, int room);

  DecoderWeights weights_;
  const Kernels& kernels_;
  std::vector<Buffer> buffers_;
  std::vector<BlockWeights> blocks_;
};

}  // namespace dtag
