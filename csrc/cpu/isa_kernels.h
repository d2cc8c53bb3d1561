// Included last by a translation unit of one instruction set: its kernels behind a table (kernels.h).
#pragma once
#include "cpu/decoder_kernel.h"
#include "cpu/mlp_kernel.h"
#include "cpu/row_kernel.h"
#include "cpu/tile_kernel.h"
#include "cpu/train_kernel.h"

namespace dtag::DTAG_ISA {

static int64_t row_scratch(const Packed& packed) { return RowKernel(packed, nullptr).scratch_bytes(); }

static void run_rows(const Job& job, int64_t begin, int64_t end, float* scratch, const Team& team) {
  RowKernel kernel(*job.packed, scratch);
  for (int64_t row = begin; row < end; ++row) kernel.run(job, row, team);
}

static int64_t tile_scratch(const Packed& packed, int tile_rows) {
  return TileKernel(packed, tile_rows, nullptr).scratch_bytes();
}

static bool any_bf16(const Packed& packed) {
  for (int m = 0; m < packed.member_count; ++m)
    for (int l = 0; l < packed.members[m].depth; ++l)
      if (packed.members[m].stages[l].forward.bf16) return true;
  return false;
}

static void run_tile(const Job& job, int64_t begin, int64_t end, int tile_rows, float* scratch) {
  TileKernel kernel(*job.packed, tile_rows, scratch);
  if (!kTiles || !any_bf16(*job.packed)) return kernel.run(job, begin, end);
  TileRegisters tiles;
  kernel.run(job, begin, end);
}

static int64_t decoder_scratch(const DecoderWeights& weights, int64_t sequences, int64_t tokens) {
  return DecoderKernel(weights, {}, sequences, tokens, nullptr).scratch_bytes();
}

static void run_decoder(const DecoderWeights& weights, const DecoderRings& rings, const DecoderCall& call, int64_t begin,
                        int64_t end, int64_t tokens, float* scratch) {
  DecoderKernel(weights, rings, end - begin, tokens, scratch).run(call, begin, end);
}

static int64_t mlp_scratch(const MlpCall& call, int64_t rows) { return MlpKernel(call, rows, nullptr).scratch_bytes(); }

static void mlp_forward(const MlpCall& call, int member, int64_t begin, int64_t end, float* scratch) {
  MlpKernel(call, end - begin, scratch).forward(member, begin, end);
}

static void mlp_backward(const MlpCall& call, const MlpGradients& gradients, int member, int64_t begin, int64_t end,
                         float* scratch) {
  MlpKernel(call, end - begin, scratch).backward(gradients, member, begin, end);
}

#if defined(DTAG_BF16_DOT) || defined(DTAG_TILES)
constexpr bool kBf16Dot = true;
#else
constexpr bool kBf16Dot = false;
#endif

#define DTAG_STRING_(x) #x
#define DTAG_STRING(x) DTAG_STRING_(x)

extern const Kernels kernels;
const Kernels kernels = {DTAG_STRING(DTAG_ISA), {kLanes, kPanel, kBlock, kVectors, kBf16Dot, kTiles},
                         row_scratch, run_rows, tile_scratch, run_tile, {kPanelWidth, kBf16Pairs, decoder_scratch, run_decoder},
                         {kPanelWidth, mlp_scratch, MlpKernel::sums_size, mlp_forward, mlp_backward, MlpKernel::pieces,
                          MlpKernel::weights},
                         {adam, tanh_all, exp_all}};

}  // namespace dtag::DTAG_ISA
