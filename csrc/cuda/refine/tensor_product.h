// y[r][o] = sum over k of x[r][k] matrix[k][o] for the rows r of a tile on the tensor cores, summed in float32. x in shared
// memory; the matrix comes through the stream, and must be the stream's next.
#pragma once
#include "cuda/refine/tensor_plane.h"
#include "cuda/refine/tensor_stream.h"

namespace dtag::gpu {

enum class TensorFinish {
  store,     // y = sum
  relu,      // y = max(sum, 0); NaN stays
  mask,      // y = sum where y was the positive output of a ReLU, else 0
  fold,      // folded = sum
};

// Where the action's gradient goes: [A][rows] floats.
struct GradientTo {
  uint32_t grad, take;  // offsets; take: one int32 per row
  int width;
  float share;          // factor of this member
  bool add;             // to what is there, instead of into the rows of `take`
};

struct TensorProduct {
  int inputs, outputs, width;  // padded; outputs: width of them are the caller's
  uint32_t x, y;               // planes
  int bias;                    // place of [outputs] floats that the sums begin with, or -1
  bool folded_base;            // or with `folded`
  float* folded;               // sums in global memory, as the registers hold them
  TensorFinish finish;
};

template <class Tile>
DTAG_INLINE void finish_gradient(const GradientTo& to, int row, int o, float sum) {
  if (o >= to.width) return;
  const Shared<float> place = shared_part<float>(to.grad, int64_t(to.width) * Tile::kRows) + o * Tile::kRows + row;
  const float x = sum * to.share;
  if (to.add)
    *place += x;
  else if (shared_part<int32_t>(to.take, Tile::kRows)[row] != 0)
    *place = x;
}

// d += a b, where two-part numbers multiply but for the product of what rounding left.
template <int parts>
DTAG_INLINE void multiply(float (&d)[4], const uint32_t (&a)[parts][4], const uint32_t (&b)[parts][4], int half) {
  const uint32_t rounded[2] = {b[0][2 * half], b[0][2 * half + 1]};
  mma_bf16(d, a[0], rounded);
  if constexpr (parts == 2) {
    const uint32_t rest[2] = {b[1][2 * half], b[1][2 * half + 1]};
    mma_bf16(d, a[1], rounded);
    mma_bf16(d, a[0], rest);
  }
}

// Outputs first.. of a panel: `groups` times 16 in each warp, dealt in turn so that narrow panels occupy all warps.
template <class Tile, int parts, int groups>
DTAG_INLINE void panel_product(const TensorProduct& p, const float* numbers, TensorStream<Tile::kParts>& stream, int first) {
  constexpr int kRowTiles = Tile::kRowTiles, kEach = kSlotRows / parts;
  // Anew, or the places that follow from them would keep registers from one product to the next.
  const int lane = anew(lane_index()), warp = anew(warp_index()), across = warp % Tile::kWarpsAcross;
  const int row_first = warp / Tile::kWarpsAcross * kRowTiles * 16;
  const int columns = p.outputs - first < kPanel ? p.outputs - first : kPanel;
  // A group beyond the panel repeats the first one; nobody takes its sums.
  const auto column_of = [&](int g) DTAG_LAMBDA {
    const int column = (g * Tile::kWarpsAcross + across) * 16;
    return column < columns ? column : 0;
  };
  const auto exists = [&](int g) DTAG_LAMBDA { return (g * Tile::kWarpsAcross + across) * 16 < columns; };
  const auto folded_place = [&](int i, int g, int half) DTAG_LAMBDA {
    return first * Tile::kRows + (((i * groups + g) * 2 + half) * kThreads + thread_index()) * 4;
  };

  float sum[kRowTiles][groups][2][4];
  DTAG_UNROLL
  for (int g = 0; g < groups; ++g) {
    DTAG_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int o = first + column_of(g) + half * 8 + lane % 4 * 2;
      const float b0 = p.bias < 0 ? 0.f : numbers[p.bias + o], b1 = p.bias < 0 ? 0.f : numbers[p.bias + o + 1];
      DTAG_UNROLL
      for (int i = 0; i < kRowTiles; ++i) {
        Float4 begin{{b0, b1, b0, b1}};
        if (p.folded_base) begin = load4(p.folded + folded_place(i, g, half));
        DTAG_UNROLL
        for (int j = 0; j < 4; ++j) sum[i][g][half][j] = begin.v[j];
      }
    }
  }

  const Plane<Tile> x(p.x, p.inputs);
  const int x_at = (row_first + lane % 16) * x.stride + lane / 16 * 8;
  const int matrix_at = lane % 16 * kPanelPitch + lane / 16 * 8;
  for (int k0 = 0; k0 < p.inputs; k0 += kEach) {
    const Shared<const uint16_t> matrix = shared_part<uint16_t>(stream.next(), kSlotBytes / 2) + matrix_at;
    DTAG_UNROLL
    for (int k = 0; k < kEach; k += 16) {
      if (k0 + k >= p.inputs) break;
      uint32_t a[kRowTiles][parts][4];
      DTAG_UNROLL
      for (int i = 0; i < kRowTiles; ++i) {
        DTAG_UNROLL
        for (int part = 0; part < parts; ++part) load_matrix(a[i][part], x.part(part) + (x_at + i * 16 * x.stride + k0 + k));
      }
      DTAG_UNROLL
      for (int g = 0; g < groups; ++g) {
        uint32_t b[parts][4];
        DTAG_UNROLL
        for (int part = 0; part < parts; ++part)
          load_matrix_trans(b[part], matrix + ((part * kEach + k) * kPanelPitch + column_of(g)));
        DTAG_UNROLL
        for (int half = 0; half < 2; ++half) {
          DTAG_UNROLL
          for (int i = 0; i < kRowTiles; ++i) multiply<parts>(sum[i][g][half], a[i], b, half);
        }
      }
      if (k == 0) stream.refill();
    }
  }

  const Plane<Tile> y(p.y, p.outputs);
  DTAG_UNROLL
  for (int g = 0; g < groups; ++g) {
    if (!exists(g)) continue;
    DTAG_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int o = first + column_of(g) + half * 8 + lane % 4 * 2;
      DTAG_UNROLL
      for (int i = 0; i < kRowTiles; ++i) {
        const float(&s)[4] = sum[i][g][half];
        if (p.finish == TensorFinish::fold) {
          store4(p.folded + folded_place(i, g, half), {{s[0], s[1], s[2], s[3]}});
          continue;
        }
        DTAG_UNROLL
        for (int lower = 0; lower < 2; ++lower) {
          const int row = row_first + i * 16 + lower * 8 + lane / 4;
          Pair v{s[2 * lower], s[2 * lower + 1]};
          Pair test = v;
          if (p.finish == TensorFinish::mask) test = y.rounded(row, o / 2);
          if (p.finish != TensorFinish::store) v = {test.a <= 0.f ? 0.f : v.a, test.b <= 0.f ? 0.f : v.b};
          // Padded outputs stay zero whatever the row holds.
          y.store(row, o / 2, {o < p.width ? v.a : 0.f, o + 1 < p.width ? v.b : 0.f});
        }
      }
    }
  }
}

// All threads; x is complete for all of them behind the stream's barrier, and so is y afterwards. parts: those of x and of
// the matrix.
template <class Tile, int parts>
DTAG_INLINE void tensor_product(const TensorProduct& p, const float* numbers, TensorStream<Tile::kParts>& stream) {
  for (int first = 0; first < p.outputs; first += kPanel) {
    const int columns = p.outputs - first < kPanel ? p.outputs - first : kPanel;
    const int groups = (columns / 16 + Tile::kWarpsAcross - 1) / Tile::kWarpsAcross;
    if constexpr (Tile::kGroups >= 4) {
      if (groups == 4) panel_product<Tile, parts, 4>(p, numbers, stream, first);
      if (groups == 3) panel_product<Tile, parts, 3>(p, numbers, stream, first);
    }
    if (groups == 2) panel_product<Tile, parts, 2>(p, numbers, stream, first);
    if (groups == 1) panel_product<Tile, parts, 1>(p, numbers, stream, first);
  }
  sync_block();
}

// The gradient of the action's dimensions first..first + 15: a warp makes 16 rows.
template <class Tile>
DTAG_INLINE void narrow_product(int inputs, uint32_t x_offset, const GradientTo& to, int first, TensorStream<Tile::kParts>& stream) {
  constexpr int parts = Tile::kParts, kEach = kNarrowRows / parts;
  const int lane = anew(lane_index()), row_first = anew(warp_index()) * 16;
  const bool works = row_first < Tile::kRows, both = to.width - first > 8;
  const Plane<Tile> x(x_offset, inputs);
  const int x_at = (row_first + lane % 16) * x.stride + lane / 16 * 8;
  float sum[2][2][4] = {};  // [input / 16 % 2][outputs 0..8 or 8..16]: two chains
  for (int k0 = 0; k0 < inputs; k0 += kEach) {
    const Shared<const uint16_t> matrix =
        shared_part<uint16_t>(stream.next(), kSlotBytes / 2) + (lane % 16 * kNarrowPitch + lane / 16 * 8);
    stream.refill();
    if (!works) continue;
    const int end = inputs - k0 < kEach ? inputs - k0 : kEach;
    const auto step = [&](int k, float(&d)[2][4]) DTAG_LAMBDA {
      uint32_t a[parts][4], b[parts][4];
      DTAG_UNROLL
      for (int part = 0; part < parts; ++part) {
        load_matrix(a[part], x.part(part) + (x_at + k0 + k));
        load_matrix_trans(b[part], matrix + (part * kEach + k) * kNarrowPitch);
      }
      multiply<parts>(d[0], a, b, 0);
      if (both) multiply<parts>(d[1], a, b, 1);
    };
    for (int k = 0; k < end; k += 32) {
      step(k, sum[0]);
      if (k + 16 < end) step(k + 16, sum[1]);
    }
  }
  if (works) {
    DTAG_UNROLL
    for (int half = 0; half < 2; ++half) {
      DTAG_UNROLL
      for (int j = 0; j < 4; ++j)
        finish_gradient<Tile>(to, row_first + j / 2 * 8 + lane / 4, first + half * 8 + lane % 4 * 2 + j % 2,
                              sum[0][half][j] + sum[1][half][j]);
    }
  }
  sync_block();
}

}  // namespace dtag::gpu
