// cuda/warpgroup.h for the CPU. A product reads its matrix where it stands in the program; its sums appear at
// wgmma_end(), until which their registers hold NaN, and nobody may have touched these or the operands' by then.
#pragma once
#include "simt_host/mma.h"

namespace dtag::simt {

inline int warpgroup_index() { return self().index / kWarpgroupThreads; }
inline void sync_warpgroup() {
  Thread& me = self();
  me.machine->sync_warpgroup(me, Collective::sync_warpgroup);
}
inline bool sync_warpgroup_or(bool x) {
  Thread& me = self();
  Warpgroup& g = *me.warpgroup;
  const int round = g.round;
  if (x) g.any[round] = true;
  me.machine->sync_warpgroup(me, Collective::sync_warpgroup_or);
  return g.any[round];
}

inline void publish_to_wgmma() {
  Thread& me = self();
  me.published = me.tick++;  // what it writes from here on is not
}

inline void wgmma_begin() {
  Thread& me = self();
  me.machine->meet_warpgroup(me, Collective::wgmma_begin);
  if (me.products.open) throw Fault(FaultKind::registers, name_thread(me) + ": wgmma_begin() twice without wgmma_end()");
  me.products.open = true;
}

// Which NaN: one that no arithmetic makes.
constexpr uint32_t kUnderWay = 0x7fcbcdefu;

template <int count>
inline void wgmma_end(float (&d)[count]) {
  Thread& me = self();
  me.machine->meet_warpgroup(me, Collective::wgmma_end);
  for (const Products::Operand& a : me.products.operands)
    if (std::memcmp(a.place, a.value.data(), sizeof(a.value)) != 0)
      throw Fault(FaultKind::registers, name_thread(me) + ": an operand of a product changed before wgmma_end()");
  for (const Products::Sums& sums : me.products.sums) {
    if (sums.place != d) throw Fault(FaultKind::registers, name_thread(me) + ": wgmma_end() of other sums than a product's");
    for (int i = 0; i < count; ++i)
      if (bits_of(d[i]) != kUnderWay)
        throw Fault(FaultKind::registers, name_thread(me) + ": sums of a product were written before wgmma_end()");
    std::memcpy(d, sums.value.data(), sizeof(d));
  }
  me.products = {};
}

template <int width, bool turn>
inline void wgmma_bf16(float (&d)[width / 2], const uint32_t (&a)[4], Shared<const uint16_t> matrix, int rows, int k, bool more) {
  Thread& me = self();
  if (me.machine->shape().capability != 90)
    throw Fault(FaultKind::usage, name_thread(me) + ": products of a warpgroup on a device that has none");
  if (!me.products.open) throw Fault(FaultKind::registers, name_thread(me) + ": a product before wgmma_begin()");
  const auto* all = exchange<4>(me, Collective::wgmma_bf16, {a[0], a[1], a[2], a[3]});
  me.machine->meet_warpgroup(me, Collective::wgmma_bf16);
  SharedMemory& memory = checked(me, matrix, 2, "product");
  if (matrix.offset() % 1024 != 0)
    throw Fault(FaultKind::alignment, name_thread(me) + ": a product's matrix at " + std::to_string(matrix.offset()) +
                                          ", not a multiple of 1024 bytes");
  // Row and column of B's number (i, n), and its place.
  const auto place = [&](int i, int n) {
    const int row = turn ? 16 * k + i : n, column = turn ? n : 16 * k + i;
    if (row >= rows) throw Fault(FaultKind::bounds, name_thread(me) + ": a product reads row " + std::to_string(row) + " of " + std::to_string(rows));
    return matrix.offset() + int64_t(column / 64) * rows * 128 + row * 128 + ((column % 64 / 8) ^ (row % 8)) * 16 + column % 8 * 2;
  };
  // Each thread sees to the words of one or two columns, or rows, on behalf of all.
  for (int n = me.index % kWarpgroupThreads; n < width; n += kWarpgroupThreads)
    for (int i = 0; i < 16; ++i) memory.read_for_product(me, uint32_t(place(i, n)) & ~3u, matrix.part());

  Products::Sums& sums = me.products.of(d, width / 2);
  const int lane = me.index % kWarpLanes;
  for (int half = 0; half < 2; ++half) {
    float row[16];
    for (int i = 0; i < 16; ++i) row[i] = bf16_of(all[lane / 4 * 4 + i % 8 / 2][half + i / 8 * 2], i % 2);
    for (int j = 0; j < width / 8; ++j)
      for (int c = 0; c < 2; ++c) {
        float& sum = sums.value[size_t(4 * j + 2 * half + c)];
        if (!more) sum = 0.f;
        for (int i = 0; i < 16; ++i) {
          uint16_t b;
          std::memcpy(&b, memory.bytes_at(place(i, 8 * j + lane % 4 * 2 + c)), 2);
          sum += row[i] * float_of(uint32_t(b) << 16);
        }
      }
  }
  for (float& x : d) x = float_of(kUnderWay);
  me.products.operands.push_back({a, {a[0], a[1], a[2], a[3]}});
}

}  // namespace dtag::simt
