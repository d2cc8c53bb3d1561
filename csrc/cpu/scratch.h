// Working memory of a thread.
#pragma once
#include "cpu/pack.h"

namespace dtag {

// Scratch of the calling thread, kept between calls and grown when a call needs more; `which` of its two blocks.
inline float* scratch(size_t bytes, int which) {
  thread_local Buffer buffers[2];
  thread_local size_t sizes[2] = {0, 0};
  if (bytes > sizes[which]) {
    buffers[which] = Buffer(bytes);
    sizes[which] = bytes;
  }
  return buffers[which].floats();
}

}  // namespace dtag
