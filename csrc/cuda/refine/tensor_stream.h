// Matrices on their way from the L2 cache into shared memory, in the order in which products take them, a few rows ahead of
// the arithmetic: across products, members and iterations, so that only a tile's first rows are waited for.
#pragma once
#include "cuda/refine/tensor_program.h"
#include "cuda/refine/tensor_tile.h"
#include "cuda/vocabulary.h"

namespace dtag::gpu {

using cuda::kNarrowPitch;
using cuda::kNarrowRows;
using cuda::kPanel;
using cuda::kPanelPitch;
using cuda::kSlotBytes;
using cuda::kSlotRows;
using cuda::kSlots;
using cuda::kThreads;
using cuda::TensorMatrix;
using cuda::TensorProgram;

// most_parts: of a matrix.
template <int most_parts>
class TensorStream {
 public:
  DTAG_MEMBER TensorStream(const TensorProgram& program, uint32_t slots) : p_(program), slots_(slots) {}

  // From matrix `at` of the table on. All threads, none of them reading a slot any more behind the barrier.
  DTAG_MEMBER void start(int at, bool with_gradient) {
    copy_async_wait<0>();
    sync_block();
    flags_ = with_gradient ? kWithGradient : 0;
    begin(at);
    slot_ = kSlots - 1;  // as if the rows before had been taken
    refill();
    slot_ = 0;
    refill();
  }
  DTAG_MEMBER bool with_gradient() const { return (flags_ & kWithGradient) != 0; }
  DTAG_MEMBER void stop() const { copy_async_wait<0>(); }

  // The offset of the next rows, complete for all threads. Nobody reads any more what the last call gave: refill() follows,
  // when the arithmetic has something to do.
  DTAG_MEMBER uint32_t next() {
    copy_async_wait<kSlots - 2>();
    sync_block();
    const uint32_t offset = slots_ + uint32_t(slot_) * kSlotBytes;
    slot_ = slot_ == kSlots - 1 ? 0 : slot_ + 1;
    return offset;
  }

  // Sends the rows after those under way: [part][input], each thread 16 bytes of a few of them.
  DTAG_MEMBER void refill() {
    static_assert(kSlots == 3);  // slot_ - 1 is being read, slot_ under way, slot_ + 1 free
    const int free = slot_ == kSlots - 1 ? 0 : slot_ + 1;
    const Shared<float> slot = shared_part<float>(slots_ + uint32_t(free) * kSlotBytes, kSlotBytes / 4);
    const float* from = p_.numbers + from_;
    const int parts = most_parts == 1 ? 1 : parts_;
    if (flags_ & kNarrow) {
      constexpr int kApart = kThreads / 2;  // rows from copy to copy: two threads a row
      const int t = anew(thread_index());
      const Shared<float> to = slot + t / 2 * (kNarrowPitch / 2) + t % 2 * 4;
      send<kNarrowRows, kApart>(to, from, kNarrowPitch / 2, parts, t / 2);
    } else {
      constexpr int kApart = kThreads / kWarp;  // a warp a row
      const Shared<float> to = slot + warp_index() * (kPanelPitch / 2) + lane_index() * 4;
      send<kSlotRows, kApart>(to, from, kPanelPitch / 2, parts,
                              panel_ + lane_index() * 8 < outputs_ ? warp_index() : kNone);
    }
    copy_async_commit();
    if (left_ <= 0) {
      panel_ += kPanel;
      if (panel_ < outputs_)
        begin_panel();
      else
        advance();
    }
  }

 private:
  // `row`: this thread's first, of those that are left, or kNone.
  template <int rows, int apart>
  DTAG_MEMBER void send(Shared<float> to, const float* from, int pitch, int parts, int row) {
    const int each = rows / parts;
    DTAG_UNROLL
    for (int i = 0; i < rows; i += apart) {
      const bool low = most_parts > 1 && i >= each;
      const int k = low ? i - each : i;
      if (row + k < left_)
        copy_async16(to + i * pitch, from + k * (outputs_ / 2) + (low ? inputs_ * (outputs_ / 2) : 0));
    }
    from_ += each * (outputs_ / 2);
    left_ -= each;
  }

  DTAG_MEMBER void begin(int at) {
    const TensorMatrix& m = p_.stream[at];
    at_ = at;
    inputs_ = m.inputs;
    outputs_ = m.outputs;
    parts_ = m.parts;
    flags_ = (flags_ & kWithGradient) | (m.narrow ? kNarrow : 0);
    panel_ = 0;
    begin_panel();
  }
  DTAG_MEMBER void begin_panel() {
    const TensorMatrix& m = p_.stream[at_];  // read again: registers are scarce
    left_ = m.inputs;
    from_ = m.place + (flags_ & kNarrow ? thread_index() * 4 : warp_index() * (outputs_ / 2) + lane_index() * 4 + panel_ / 2);
  }
  DTAG_MEMBER void advance() {
    int at = at_;
    do at = at + 1 == p_.stream_matrices ? p_.fold_matrices : at + 1;
    while (!with_gradient() && p_.stream[at].gradient);
    begin(at);
  }

  static constexpr int kNarrow = 1, kWithGradient = 2, kNone = 1 << 30;

  const TensorProgram& p_;
  uint32_t slots_;
  int at_ = 0, inputs_ = 0, outputs_ = 0, parts_ = 1, flags_ = 0;  // the matrix that comes
  int panel_ = 0, slot_ = 0;
  int left_ = 0, from_ = 0;  // inputs to come in this panel; where the thread's first copy begins
};

}  // namespace dtag::gpu
