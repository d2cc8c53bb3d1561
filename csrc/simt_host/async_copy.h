// Copies from global to shared memory. The source is read and the destination written as late as the wait allows, and
// nobody may touch the destination before.
#pragma once
#include "simt_host/shared_pointer.h"

namespace dtag::simt {

inline void copy_async16(Shared<float> to, const float* from) {
  Thread& me = self();
  check_global_alignment(from);
  SharedMemory& memory = checked(me, to, 16, "copy_async16");
  for (uint32_t i = 0; i < 16; i += 4) memory.begin_word(me, uint32_t(to.offset()) + i, to.part(), kCopyInFlight);
  me.copies.push_back({uint32_t(to.offset()), from});
}

inline void copy_async_commit() {
  Thread& me = self();
  size_t grouped = 0;
  for (size_t n : me.copy_groups) grouped += n;
  me.copy_groups.push_back(me.copies.size() - grouped);
}

template <int left>
inline void copy_async_wait() {
  static_assert(left >= 0);
  Thread& me = self();
  while (me.copy_groups.size() > size_t(left)) {
    const auto done = me.copies.begin() + std::ptrdiff_t(me.copy_groups.front());
    for (auto c = me.copies.begin(); c != done; ++c)
      for (uint32_t i = 0; i < 4; ++i) me.memory->land_word(c->offset + 4 * i, me.number, me.tick, c->from + i);
    me.copies.erase(me.copies.begin(), done);
    me.copy_groups.erase(me.copy_groups.begin());
  }
}

}  // namespace dtag::simt
