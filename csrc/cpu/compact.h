// Packs the rows that chose a member next to each other, so that its backward pass runs on full vectors of them.
//
// A compacted strip has kLanes spare numbers after each unit's kStrip: every move stores a whole vector at the place of
// its first row, and what it writes beyond its own rows is overwritten by the next move or falls into the spare part.
#pragma once
#include "cpu/packed.h"
#include "cpu/simd.h"
#include "cpu/strip_product.h"

namespace dtag::DTAG_ISA {

constexpr int kCompactStrip = kStrip + kLanes;

// Some lanes of one vector of rows go to consecutive places of one compacted strip.
struct Move {
  int32_t from_strip, from_row, to_strip, to_row;
  int32_t lanes[kLanes];
};

// Fills `rows` with the numbers of the chosen rows and `moves` with what brings them together; returns both counts.
static int plan_moves(const int32_t* chosen, int vectors, int32_t* rows, Move* moves, int* move_count) {
  int n = 0, count = 0;
  for (int v = 0; v < vectors; ++v) {
    Move* move = nullptr;
    int filled = 0;
    for (int lane = 0; lane < kLanes; ++lane) {
      if (!chosen[v * kLanes + lane]) continue;
      if (!move || n % kStrip == 0) {  // a vector's rows may fall into two strips: then it makes two moves
        move = &moves[count++];
        move->from_strip = v / kVectors;
        move->from_row = v % kVectors * kLanes;
        move->to_strip = n / kStrip;
        move->to_row = n % kStrip;
        for (int l = 0; l < kLanes; ++l) move->lanes[l] = lane;
        filled = 0;
      }
      move->lanes[filled++] = lane;
      rows[n++] = v * kLanes + lane;
    }
  }
  *move_count = count;
  return n;
}

// from: [strip][width][kStrip], to: [strip][width][kCompactStrip]
static void apply_moves(const Move* moves, int count, const float* from, float* to, int width) {
  for (int i = 0; i < count; ++i) {
    const Move& m = moves[i];
    const vi lanes = load<vi>(m.lanes);
    const float* source = from + int64_t(m.from_strip) * width * kStrip + m.from_row;
    float* target = to + int64_t(m.to_strip) * width * kCompactStrip + m.to_row;
    for (int u = 0; u < width; ++u) store(target + u * kCompactStrip, permute(load(source + u * kStrip), lanes));
  }
}

}  // namespace dtag::DTAG_ISA
