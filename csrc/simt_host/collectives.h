// Barriers, votes and shuffles. Only sync_warp, sync_block, sync_block_or and sync_cluster order memory; votes, shuffles
// and matrix products do not, as on the GPU.
#pragma once
#include "simt_host/machine.h"

namespace dtag::simt {

inline void sync_block() {
  Thread& me = self();
  me.machine->sync_block(me, Collective::sync_block);
}
inline bool sync_block_or(bool x) {
  Thread& me = self();
  Block& b = *me.block;
  const int round = b.round;
  if (x) b.any[round] = true;
  me.machine->sync_block(me, Collective::sync_block_or);
  return b.any[round];
}
inline void sync_cluster() {
  Thread& me = self();
  me.machine->sync_cluster(me);
}
inline void sync_warp() {
  Thread& me = self();
  meet_warp(me, Collective::sync_warp, [&] {
    const int first = int(me.number) / kWarpLanes * kWarpLanes;
    me.machine->join(first, first + kWarpLanes);
  });
}

// Each lane gives `count` words; returns those of all lanes.
template <int count>
inline const uint32_t (*exchange(Thread& me, Collective kind, const uint32_t (&mine)[count]))[6] {
  static_assert(count <= 6);
  auto& values = me.warp->values[me.warp->round];
  for (int i = 0; i < count; ++i) values[me.number % kWarpLanes][i] = mine[i];
  meet_warp(me, kind, [] {});
  return values;
}

inline bool vote_any(bool x) {
  const auto* all = exchange<1>(self(), Collective::vote_any, {x});
  uint32_t any = 0;
  for (int i = 0; i < kWarpLanes; ++i) any |= all[i][0];
  return any != 0;
}
inline bool vote_all(bool x) {
  const auto* all = exchange<1>(self(), Collective::vote_all, {x});
  uint32_t every = 1;
  for (int i = 0; i < kWarpLanes; ++i) every &= all[i][0];
  return every != 0;
}

template <class T>
inline T shuffle_from(Thread& me, Collective kind, T x, int lane) {
  if (lane < 0 || lane >= kWarpLanes)
    throw Fault(FaultKind::usage, name_thread(me) + ": " + name(kind) + 
                                      " reads lane " + std::to_string(lane) + ", outside 0..31");
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  bits = exchange<1>(me, kind, {bits})[lane][0];
  std::memcpy(&x, &bits, 4);
  return x;
}
inline float shuffle(float x, int lane) { return shuffle_from(self(), Collective::shuffle_float, x, lane); }
inline int shuffle(int x, int lane) { return shuffle_from(self(), Collective::shuffle_int, x, lane); }
inline float shuffle_xor(float x, int mask) {
  Thread& me = self();
  return shuffle_from(me, Collective::shuffle_xor_float, x, (me.index % kWarpLanes) ^ mask);
}
inline int shuffle_xor(int x, int mask) {
  Thread& me = self();
  return shuffle_from(me, Collective::shuffle_xor_int, x, (me.index % kWarpLanes) ^ mask);
}

}  // namespace dtag::simt
