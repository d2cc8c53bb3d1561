// y[o][r] = sum over k of matrix[k][o] x[k][r] for the rows r of a tile, in float32, inputs summed in a fixed order.
#pragma once
#include "cuda/refine/tile.h"
#include "cuda/vocabulary.h"

namespace dtag::gpu {

using cuda::kNarrow;
using cuda::kThreads;

// What is done with a sum once it is known.
enum class Finish {
  store,       // y = sum
  relu,        // y = max(sum, 0); NaN stays
  mask,        // y = sum where y was the positive output of a ReLU, else 0
  to_global,   // global_y = sum
  to_chosen,   // y = sum in the rows of `take`
  add,         // y += sum
  as_taken,    // y = sum or y += sum or neither, as `take` says of the row (ensemble.h)
};

struct Product {
  const float* matrix;    // [inputs][padded]
  int inputs, outputs, padded;
  uint32_t x, y;          // offsets of units in shared memory
  uint32_t take;          // offset, one int32 per row
  uint32_t scratch;       // offset, Tile::kScratchFloats
  const float* bias;      // [outputs] or null, added to the sum
  const float* base;      // [outputs][rows] or null, added to the sum
  float* global_y;        // [outputs][rows]
  Finish finish;
};

// Four rows from r on of output o.
template <class Tile>
DTAG_INLINE void finish(const Product& p, int o, int r, Float4 sum) {
  const int64_t at = int64_t(o) * Tile::kRows + r;
  if (p.bias) {
    const float b = p.bias[o];
    for (float& v : sum.v) v += b;
  }
  if (p.base) {
    const Float4 b = load4(p.base + at);
    for (int j = 0; j < 4; ++j) sum.v[j] += b.v[j];
  }
  if (p.finish == Finish::to_global) return store4(p.global_y + at, sum);
  const Shared<float> y = shared_part<float>(p.y, int64_t(p.outputs) * Tile::kRows) + at;
  if (p.finish == Finish::relu) {
    for (float& v : sum.v) v = v <= 0.f ? 0.f : v;
  } else if (p.finish != Finish::store) {
    const Float4 old = load4(y);
    const Shared<const int32_t> take = shared_part<int32_t>(p.take, Tile::kRows) + r;
    DTAG_UNROLL
    for (int j = 0; j < 4; ++j) {
      if (p.finish == Finish::mask)
        sum.v[j] = old.v[j] <= 0.f ? 0.f : sum.v[j];
      else if (p.finish == Finish::add)
        sum.v[j] += old.v[j];
      else if (p.finish == Finish::as_taken)
        sum.v[j] = take[j] == 0 ? old.v[j] : take[j] == 1 ? sum.v[j] : sum.v[j] + old.v[j];
      else
        sum.v[j] = take[j] ? sum.v[j] : old.v[j];
    }
  }
  store4(y, sum);
}

// Columns first..first + kColumns of inputs k0..k0 + kChunk on their way into `buffer` [kChunk][kColumns]. Beyond the
// matrix other columns of it are read, whose sums nobody takes.
template <class Tile>
DTAG_INLINE void fetch(const Product& p, int first, int k0, Shared<float> buffer) {
  constexpr int kQuads = Tile::kColumns / 4;
  DTAG_UNROLL
  for (int i = 0; i < Tile::kChunk * kQuads; i += kThreads) {
    const int at = i + thread_index(), k = at / kQuads, column = at % kQuads * 4;
    if (k0 + k >= p.inputs) break;
    const int from = first + column < p.padded ? first + column : p.padded - 4;
    copy_async16(buffer + k * Tile::kColumns + column, p.matrix + int64_t(k0 + k) * p.padded + from);
  }
}

// Many outputs: columns in shared memory, sums in registers. A thread's outputs and rows come in fours that lie half of
// all columns, half of all rows apart, so that neighbouring threads read neighbouring addresses.
template <class Tile>
DTAG_INLINE void wide_product(const Product& p) {
  constexpr int kOut = Tile::kOutputsEach, kRow = Tile::kRowsEach, kColumns = Tile::kColumns, kRows = Tile::kRows;
  constexpr int kBuffer = Tile::kChunk * kColumns, kBuffers = Tile::kBuffers, kSplit = Tile::kSplit;
  const Shared<float> scratch = shared_part<float>(p.scratch, Tile::kScratchFloats);
  const Shared<const float> x = shared_part<float>(p.x, int64_t(p.inputs) * kRows);
  const int t = thread_index();
  // A warp spans 8 column groups; its 4 others are row groups as far as there are 4.
  constexpr int kWarpRows = Tile::kRowGroups < 4 ? Tile::kRowGroups : 4, kWarpColumns = kWarp / kWarpRows;
  constexpr int kWarpsAcross = Tile::kColumnGroups / kWarpColumns;
  const int warp = warp_index(), lane = lane_index();
  const int column = (warp % kWarpsAcross * kWarpColumns + lane % kWarpColumns) * 4;
  const int group = warp / kWarpsAcross * kWarpRows + lane / kWarpColumns;  // of rows, then of inputs
  const int row = group % Tile::kRowGroups * 4, part = group / Tile::kRowGroups;
  constexpr int kOutApart = kColumns / (kOut / 4), kRowApart = kRows / (kRow / 4);

  for (int first = 0; first < p.outputs; first += kColumns) {
    float sum[kOut][kRow] = {};
    const int chunks = (p.inputs + Tile::kChunk - 1) / Tile::kChunk;
    DTAG_UNROLL
    for (int c = 0; c < kBuffers - 1; ++c) {
      if (c < chunks) fetch<Tile>(p, first, c * Tile::kChunk, scratch + c * kBuffer);
      copy_async_commit();
    }
    for (int c = 0; c < chunks; ++c) {
      copy_async_wait<kBuffers - 2>();
      sync_block();
      const int next = c + kBuffers - 1;
      if (next < chunks) fetch<Tile>(p, first, next * Tile::kChunk, scratch + next % kBuffers * kBuffer);
      copy_async_commit();
      const Shared<const float> w = scratch + c % kBuffers * kBuffer + column;
      const Shared<const float> xc = x + int64_t(c) * Tile::kChunk * kRows + row;
      const int left = p.inputs - c * Tile::kChunk;
      const auto multiply = [&](int k) {
        float a[kOut], b[kRow];
        DTAG_UNROLL
        for (int i = 0; i < kOut; i += 4) {
          const Float4 four = load4(w + k * kColumns + i / 4 * kOutApart);
          for (int j = 0; j < 4; ++j) a[i + j] = four.v[j];
        }
        DTAG_UNROLL
        for (int i = 0; i < kRow; i += 4) {
          const Float4 four = load4(xc + k * kRows + i / 4 * kRowApart);
          for (int j = 0; j < 4; ++j) b[i + j] = four.v[j];
        }
        DTAG_UNROLL
        for (int i = 0; i < kOut; ++i) {
          DTAG_UNROLL
          for (int j = 0; j < kRow; ++j) sum[i][j] = fma(a[i], b[j], sum[i][j]);
        }
      };
      if (left >= Tile::kChunk) {
        DTAG_UNROLL
        for (int k = 0; k < Tile::kChunk; k += kSplit) multiply(k + part);
      } else {
        for (int k = part; k < left; k += kSplit) multiply(k);
      }
    }
    if constexpr (kSplit == 1) {
      DTAG_UNROLL
      for (int i = 0; i < kOut; ++i) {
        const int o = first + i / 4 * kOutApart + column + i % 4;
        if (o >= p.outputs) continue;
        DTAG_UNROLL
        for (int j = 0; j < kRow; j += 4)
          finish<Tile>(p, o, row + j / 4 * kRowApart, {{sum[i][j], sum[i][j + 1], sum[i][j + 2], sum[i][j + 3]}});
      }
    } else {  // partial sums [part][column][row]
      sync_block();
      DTAG_UNROLL
      for (int i = 0; i < kOut; ++i)
        store4(scratch + (part * kColumns + i / 4 * kOutApart + column + i % 4) * kRows + row,
               {{sum[i][0], sum[i][1], sum[i][2], sum[i][3]}});
      sync_block();
      for (int at = t; at < kColumns * kRows / 4; at += kThreads) {
        const int o = at / (kRows / 4), r = at % (kRows / 4) * 4;
        if (first + o >= p.outputs) break;
        Float4 total = load4(scratch + o * kRows + r);
        DTAG_UNROLL
        for (int s = 1; s < kSplit; ++s) {
          const Float4 more = load4(scratch + (s * kColumns + o) * kRows + r);
          for (int j = 0; j < 4; ++j) total.v[j] += more.v[j];
        }
        finish<Tile>(p, first + o, r, total);
      }
    }
    sync_block();
  }
}

// Few outputs: each thread sums a share of the inputs of one row; the shares are added in order.
template <class Tile>
DTAG_INLINE void narrow_product(const Product& p) {
  constexpr int kRows = Tile::kRows, kParts = kThreads / kRows;
  const Shared<float> scratch = shared_part<float>(p.scratch, Tile::kScratchFloats);  // [part][output][row]
  const Shared<const float> x = shared_part<float>(p.x, int64_t(p.inputs) * kRows);
  const int row = thread_index() % kRows, part = thread_index() / kRows;
  for (int o = 0; o < p.outputs; o += 4) {
    float sum[4] = {};
    for (int k = part; k < p.inputs; k += kParts) {
      const Float4 w = load4(p.matrix + int64_t(k) * p.padded + o);
      const float value = x[k * kRows + row];
      DTAG_UNROLL
      for (int j = 0; j < 4; ++j) sum[j] = fma(w.v[j], value, sum[j]);
    }
    DTAG_UNROLL
    for (int j = 0; j < 4; ++j)
      if (o + j < p.outputs) scratch[(part * kNarrow + o + j) * kRows + row] = sum[j];
  }
  sync_block();
  for (int at = thread_index(); at < p.outputs * kRows / 4; at += kThreads) {
    const int o = at / (kRows / 4), r = at % (kRows / 4) * 4;
    Float4 total = load4(scratch + o * kRows + r);
    for (int s = 1; s < kParts; ++s) {
      const Float4 more = load4(scratch + (s * kNarrow + o) * kRows + r);
      for (int j = 0; j < 4; ++j) total.v[j] += more.v[j];
    }
    finish<Tile>(p, o, r, total);
  }
  sync_block();
}

// All threads; x is complete for all of them, and so is y afterwards.
template <class Tile>
DTAG_FUNCTION void product(const Product& p) {
  if (p.outputs <= kNarrow)
    narrow_product<Tile>(p);
  else
    wide_product<Tile>(p);
}

}  // namespace dtag::gpu
