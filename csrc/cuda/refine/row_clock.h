// Adam's clock of each row of a tile, in shared memory: no register holds it while products run.
#pragma once
#include "cuda/refine/tile_rows.h"

namespace dtag::gpu {

template <class Tile, class Team = WholeBlock>
class RowClock {
 public:
  // offset: of [2][rows] doubles.
  DTAG_MEMBER explicit RowClock(uint32_t offset) : offset_(offset) {}
  DTAG_MEMBER void begin() const { put({}); }
  DTAG_MEMBER Clock ticked(const Settings& s) const {
    Clock clock;
    if (Team::thread() >= Tile::kRows || s.optimizer != Optimizer::adam) return clock;
    clock.beta1_power = power(0);
    clock.beta2_power = power(1);
    clock.tick(s);
    put(clock);
    return clock;
  }

 private:
  DTAG_MEMBER void put(const Clock& clock) const {
    if (Team::thread() >= Tile::kRows) return;
    power(0) = clock.beta1_power;
    power(1) = clock.beta2_power;
  }
  DTAG_MEMBER decltype(auto) power(int i) const {
    return shared_part<double>(offset_, 2 * Tile::kRows)[i * Tile::kRows + Team::thread()];
  }
  uint32_t offset_;
};

}  // namespace dtag::gpu
