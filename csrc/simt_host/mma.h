// Matrix products of a warp; the layouts are written in cuda/primitives.h. Operands are taken bit for bit and every
// product is exact in float; the sum runs over k in order in float32. A GPU adds in another order and may round
// differently, so that the last bits differ.
#pragma once
#include "simt_host/collectives.h"
#include "simt_host/shared_pointer.h"

namespace dtag::simt {

inline float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}
inline uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}
inline float bf16_of(uint32_t pair, int upper) { return float_of(upper ? pair & 0xffff0000u : pair << 16); }

// a_of(row, k) and b_of(k, column) read what the lanes gave.
template <int depth, class A, class B>
inline void multiply_add(float (&d)[4], int lane, const A& a_of, const B& b_of) {
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    for (int k = 0; k < depth; ++k) d[i] += a_of(row, k) * b_of(k, column);
  }
}

inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  Thread& me = self();
  const auto* all = exchange<6>(me, Collective::mma_bf16, {a[0], a[1], a[2], a[3], b[0], b[1]});
  multiply_add<16>(
      d, me.index % kWarpLanes,
      [&](int row, int k) { return bf16_of(all[row % 8 * 4 + k % 8 / 2][row / 8 + k / 8 * 2], k % 2); },
      [&](int k, int column) { return bf16_of(all[column * 4 + k % 8 / 2][4 + k / 8], k % 2); });
}

inline void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  Thread& me = self();
  for (uint32_t x : {a[0], a[1], a[2], a[3], b[0], b[1]})
    if (x & 0x1fffu) throw Fault(FaultKind::unrounded, name_thread(me) + ": an operand of mma_tf32 without round_tf32");
  const auto* all = exchange<6>(me, Collective::mma_tf32, {a[0], a[1], a[2], a[3], b[0], b[1]});
  multiply_add<8>(
      d, me.index % kWarpLanes,
      [&](int row, int k) { return float_of(all[row % 8 * 4 + k % 4][row / 8 + k / 4 * 2]); },
      [&](int k, int column) { return float_of(all[column * 4 + k % 4][4 + k / 4]); });
}

// Which lane of the GPU's warp reads which bytes is not said; here the lane that gives a row's address reads the row.
inline const uint32_t (*exchange_rows(Thread& me, Collective kind, Shared<const uint16_t> row))[6] {
  const Float4 x = checked(me, row, 16, name(kind)).read<Float4>(me, row.offset(), row.part());
  return exchange<4>(me, kind, {bits_of(x.v[0]), bits_of(x.v[1]), bits_of(x.v[2]), bits_of(x.v[3])});
}

inline void load_matrix(uint32_t (&r)[4], Shared<const uint16_t> row) {
  Thread& me = self();
  const auto* all = exchange_rows(me, Collective::load_matrix, row);
  const int lane = me.index % kWarpLanes;
  for (int m = 0; m < 4; ++m) r[m] = all[8 * m + lane / 4][lane % 4];
}

inline void load_matrix_trans(uint32_t (&r)[4], Shared<const uint16_t> row) {
  Thread& me = self();
  const auto* all = exchange_rows(me, Collective::load_matrix_trans, row);
  const int lane = me.index % kWarpLanes, column = lane / 4;
  const auto number = [&](int m, int i) { return all[8 * m + i][column / 2] >> (column % 2 * 16) & 0xffffu; };
  for (int m = 0; m < 4; ++m) r[m] = number(m, lane % 4 * 2) | number(m, lane % 4 * 2 + 1) << 16;
}

inline uint32_t round_bf16(float x) {
  const uint32_t bits = bits_of(x);
  if (x != x) return 0x7fff;
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
inline uint32_t pack_bf16(float low, float high) { return round_bf16(low) | round_bf16(high) << 16; }

inline uint32_t round_tf32(float x) {
  if (x != x) return 0x7fffe000;
  return (bits_of(x) + 0x1000) & ~0x1fffu;  // infinity stays: its mantissa is zero
}

}  // namespace dtag::simt
