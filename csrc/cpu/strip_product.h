// The heart of the tile kernel: a strip of rows times a weight matrix. A lane is a row (a sample), so nothing is ever
// summed across lanes and no row can touch another's bits; a weight is broadcast to all of them.
//
//   out[j][row] = init[j][row] + sum_k W[j][k] in[k][row]     block outputs j x vectors of rows in registers, k in order
#pragma once
#include "cpu/matrix_tiles.h"
#include "cpu/packed.h"
#include "cpu/simd.h"

#ifndef DTAG_BLOCK
#define DTAG_BLOCK 6  // outputs in registers: BLOCK * VECTORS accumulators of the 16 (AVX2, SSE) or 32 there are
#endif
#ifndef DTAG_VECTORS
#define DTAG_VECTORS 2  // vectors of rows
#endif

namespace dtag::DTAG_ISA {

constexpr int kBlock = DTAG_BLOCK, kVectors = DTAG_VECTORS;
constexpr int kStrip = kVectors * kLanes;  // rows of a strip; a unit of a strip is kStrip floats

enum class Init { zero, bias, array };
enum class Finish { none, relu, mask };

// Where Finish::mask zeroes a result: a unit of it every `stride` numbers, zero or below for zero.
struct Mask {
  const float* at = nullptr;
  int stride = 0;
  Mask unit(int j) const { return {at + int64_t(j) * stride, stride}; }
};

// J outputs x V vectors of rows. `w` is the block's weights, `in` the strip's inputs (a unit is kStrip numbers).
template <int J, int V, Init init, Finish finish, bool pairs>
static void block_product(const void* w, int steps, const void* in, const float* from, Mask mask, float* out) {
  vf acc[J][V];
  DTAG_UNROLL for (int j = 0; j < J; ++j)
    DTAG_UNROLL for (int v = 0; v < V; ++v) {
      if constexpr (init == Init::zero) acc[j][v] = vf{};
      if constexpr (init == Init::bias) acc[j][v] = splat(from[j]);
      if constexpr (init == Init::array) acc[j][v] = load(from + j * kStrip + v * kLanes);
    }
  if constexpr (pairs) {
    const uint32_t* weight = static_cast<const uint32_t*>(w);
    const uint32_t* x = static_cast<const uint32_t*>(in);
    for (int k = 0; k < steps; ++k, weight += J, x += kStrip) {
      vu h[V];
      DTAG_UNROLL for (int v = 0; v < V; ++v) h[v] = load<vu>(x + v * kLanes);
      DTAG_UNROLL for (int j = 0; j < J; ++j) {
        const vu b = splat_bits(weight[j]);
        DTAG_UNROLL for (int v = 0; v < V; ++v) acc[j][v] = dot_bf16(acc[j][v], h[v], b);
      }
    }
  } else {
    const float* weight = static_cast<const float*>(w);
    const float* x = static_cast<const float*>(in);
    for (int k = 0; k < steps; ++k, weight += J, x += kStrip) {
      vf h[V];
      DTAG_UNROLL for (int v = 0; v < V; ++v) h[v] = load(x + v * kLanes);
      DTAG_UNROLL for (int j = 0; j < J; ++j) {
        const vf b = splat(weight[j]);
        DTAG_UNROLL for (int v = 0; v < V; ++v) acc[j][v] = fma(h[v], b, acc[j][v]);
      }
    }
  }
  DTAG_UNROLL for (int j = 0; j < J; ++j)
    DTAG_UNROLL for (int v = 0; v < V; ++v) {
      vf x = acc[j][v];
      if constexpr (finish == Finish::relu) x = select(x <= 0.f, vf{}, x);
      if constexpr (finish == Finish::mask) x = select(load(mask.at + j * mask.stride + v * kLanes) <= 0.f, vf{}, x);
      store(out + j * kStrip + v * kLanes, x);
    }
}

// The last, narrower block: J is found by counting down from kBlock - 1.
template <int J, int V, Init init, Finish finish, bool pairs>
static void last_block(int width, const void* w, int steps, const void* in, const float* from, Mask mask, float* out) {
  if constexpr (J > 0) {
    if (width == J) return block_product<J, V, init, finish, pairs>(w, steps, in, from, mask, out);
    last_block<J - 1, V, init, finish, pairs>(width, w, steps, in, from, mask, out);
  }
}

template <int V, Init init, Finish finish, bool pairs>
static void strip_product(const BlockMatrix& m, const void* in, const float* from, Mask mask, float* out) {
  const int steps = pairs ? (m.in + 1) / 2 : m.in;
  const float* w = static_cast<const float*>(m.data);  // a pair is one word as well
  int j = 0;
  for (; j + kBlock <= m.out; j += kBlock, w += int64_t(steps) * kBlock) {
    const float* f = init == Init::zero ? nullptr : init == Init::bias ? from + j : from + int64_t(j) * kStrip;
    block_product<kBlock, V, init, finish, pairs>(w, steps, in, f, mask.unit(j), out + int64_t(j) * kStrip);
  }
  if (j < m.out) {
    const float* f = init == Init::zero ? nullptr : init == Init::bias ? from + j : from + int64_t(j) * kStrip;
    last_block<kBlock - 1, V, init, finish, pairs>(m.out - j, w, steps, in, f, mask.unit(j), out + int64_t(j) * kStrip);
  }
}

#ifdef DTAG_TILES
constexpr bool kTiles = true;
#else
constexpr bool kTiles = false;
#endif
static_assert(!kTiles || kStrip == 2 * kTile);

// The same in tiles: outputs are a tile's rows, the strip's rows its columns. What the sums start from is added to them at the end.
template <Init init, Finish finish>
static void tile_strip_product(const BlockMatrix& m, int vectors, const uint32_t* pairs, const float* from, Mask mask, float* out) {
  const int steps = (m.in + kTileDepth - 1) / kTileDepth;
  const int64_t tile = kTile * kTileDepth * 2;
  const TileColumns columns{pairs, 4 * kStrip};
  float few[kTile * kStrip];  // of the last outputs, where they fill no tile
  for (int j = 0; j < m.out;) {
    const char* weights = static_cast<const char*>(m.data) + j / kTile * steps * tile;
    const TileRows rows{weights, 2 * kTileDepth, tile, steps * tile};
    const int outputs = m.out - j >= 2 * kTile ? 2 * kTile : m.out - j < kTile ? m.out - j : kTile;
    float* to = outputs < kTile ? few : out + int64_t(j) * kStrip;
    if (outputs == 2 * kTile)
      vectors == 1 ? tile_block<true, false>(rows, columns, steps, nullptr, to, kStrip)
                   : tile_block<true, true>(rows, columns, steps, nullptr, to, kStrip);
    else
      vectors == 1 ? tile_block<false, false>(rows, columns, steps, nullptr, to, kStrip)
                   : tile_block<false, true>(rows, columns, steps, nullptr, to, kStrip);
    for (int i = 0; i < outputs; ++i, ++j)
      for (int v = 0; v < vectors * kLanes; v += kLanes) {
        vf x = load(to + i * kStrip + v);
        if constexpr (init == Init::bias) x += splat(from[j]);
        if constexpr (init == Init::array) x += load(from + int64_t(j) * kStrip + v);
        if constexpr (finish == Finish::relu) x = select(x <= 0.f, vf{}, x);
        if constexpr (finish == Finish::mask) x = select(load(mask.unit(j).at + v) <= 0.f, vf{}, x);
        store(out + int64_t(j) * kStrip + v, x);
      }
  }
}

// `vectors` of the strip's rows are in use. `pairs` is scratch for kStrip words for each two of the inputs, in tiles for each two
// of the inputs filled up to whole steps.
template <Init init, Finish finish = Finish::none>
static void strip_product(const BlockMatrix& m, int vectors, const float* in, const float* from, float* out,
                          uint32_t* pairs, Mask mask = {}) {
  if (m.bf16) {
    for (int k = 0; k < m.in; k += 2)
      for (int v = 0; v < vectors; ++v) {
        const float* x = in + int64_t(k) * kStrip + v * kLanes;
        store(pairs + int64_t(k / 2) * kStrip + v * kLanes, pack_bf16(load(x), k + 1 < m.in ? load(x + kStrip) : vf{}));
      }
    if constexpr (kTiles) {
      for (int k = (m.in + 1) / 2; k % (kTileDepth / 2); ++k)
        for (int v = 0; v < kVectors; ++v) store(pairs + int64_t(k) * kStrip + v * kLanes, vu{});
      return tile_strip_product<init, finish>(m, vectors, pairs, from, mask, out);
    }
    return vectors == 1 ? strip_product<1, init, finish, true>(m, pairs, from, mask, out)
                        : strip_product<kVectors, init, finish, true>(m, pairs, from, mask, out);
  }
  vectors == 1 ? strip_product<1, init, finish, false>(m, in, from, mask, out)
               : strip_product<kVectors, init, finish, false>(m, in, from, mask, out);
}

}  // namespace dtag::DTAG_ISA
