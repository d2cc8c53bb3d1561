// Products of tiles of bf16 numbers, summed in float32: in a core's tile registers (AMX) or, in a unit without them, in plain C.
//
//   out[m][n] = init[n] + sum_k a[m][k] b[k][n]     one or two tiles of 16 rows m, one or two of 16 columns n
//
// Inputs k come in steps of 32. Each result is its own chain of sums, in one order: a row's bits depend on no other.
#pragma once
#include "cpu/simd.h"

namespace dtag::DTAG_ISA {

constexpr int kTile = 16;       // rows of a tile, and columns of a tile of results
constexpr int kTileDepth = 32;  // inputs of a step

// Rows of bf16 numbers: the next row, step and tile of rows are so many bytes on.
struct TileRows {
  const void* at;
  int64_t row, step, tile;
};

// Words of two inputs' bf16 numbers for one column each: columns lie side by side, the next pair of inputs `pair` bytes on.
struct TileColumns {
  const void* at;
  int64_t pair;
};

#if defined(DTAG_TILES) && defined(DTAG_INTRINSICS_AVX512) && !defined(DTAG_USE_SIMDE)

// A thread's tile registers while it lives; given back at its end, so that no change of threads has to save them.
class TileRegisters {
 public:
  TileRegisters() {
    const struct {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {kTile, kTile, kTile, kTile, kTile, kTile, kTile, kTile};
    } config;
    _tile_loadconfig(&config);
  }
  ~TileRegisters() { _tile_release(); }
  TileRegisters(const TileRegisters&) = delete;
  TileRegisters& operator=(const TileRegisters&) = delete;
};

// Tiles are named by numbers in the source: 0 to 3 results, 4 and 5 rows, 6 and 7 columns.
template <bool two_rows, bool two_columns>
static void tile_block(const TileRows& a, const TileColumns& b, int steps, const float* init, float* out, int64_t out_stride) {
  const int64_t bytes = out_stride * 4;
  if (init) {  // a stride of 0 gives each row the same numbers
    _tile_loadd(0, init, 0);
    if constexpr (two_columns) _tile_loadd(1, init + kTile, 0);
    if constexpr (two_rows) _tile_loadd(2, init, 0);
    if constexpr (two_rows && two_columns) _tile_loadd(3, init + kTile, 0);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  const char *rows = static_cast<const char*>(a.at), *columns = static_cast<const char*>(b.at);
  for (int k = 0; k < steps; ++k, rows += a.step, columns += kTileDepth / 2 * b.pair) {
    _tile_loadd(4, rows, a.row);
    _tile_loadd(6, columns, b.pair);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (two_columns) {
      _tile_loadd(7, columns + 4 * kTile, b.pair);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (two_rows) {
      _tile_loadd(5, rows + a.tile, a.row);
      _tile_dpbf16ps(2, 5, 6);
      if constexpr (two_columns) _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, out, bytes);
  if constexpr (two_columns) _tile_stored(1, out + kTile, bytes);
  if constexpr (two_rows) _tile_stored(2, out + kTile * out_stride, bytes);
  if constexpr (two_rows && two_columns) _tile_stored(3, out + kTile * out_stride + kTile, bytes);
}

#else

struct TileRegisters {
  ~TileRegisters() {}
};

template <bool two_rows, bool two_columns>
static void tile_block(const TileRows& a, const TileColumns& b, int steps, const float* init, float* out, int64_t out_stride) {
  for (int m = 0; m < (two_rows ? 2 : 1) * kTile; ++m)
    for (int n = 0; n < (two_columns ? 2 : 1) * kTile; ++n) {
      float sum = init ? init[n] : 0.f;
      for (int k = 0; k < steps; ++k) {
        const char* row = static_cast<const char*>(a.at) + m / kTile * a.tile + k * a.step + m % kTile * a.row;
        const char* column = static_cast<const char*>(b.at) + k * (kTileDepth / 2) * b.pair + 4 * n;
        float even = 0.f, odd = 0.f;
        for (int i = 0; i < kTileDepth / 2; ++i) {
          const uint32_t x = load<uint32_t>(row + 4 * i), w = load<uint32_t>(column + i * b.pair);
          even += bits_as<float>(x << 16) * bits_as<float>(w << 16);
          odd += bits_as<float>(x & 0xffff0000u) * bits_as<float>(w & 0xffff0000u);
        }
        sum += even + odd;
      }
      out[m * out_stride + n] = sum;
    }
}

#endif

}  // namespace dtag::DTAG_ISA
