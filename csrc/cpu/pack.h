// Builds the packed form of a program and owns its memory.
#pragma once
#include <cstddef>
#include <deque>
#include <memory>
#include <new>
#include <vector>

#include "cpu/packed.h"
#include "refine/program.h"

namespace dtag {

// 64-byte aligned, zeroed; size in bytes is rounded up so that whole vectors may be read at the end.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes) {
    bytes = (bytes + 127) / 64 * 64;
    data_.reset(::operator new(bytes, std::align_val_t(64)));
    __builtin_memset(data_.get(), 0, bytes);
  }
  float* floats() const { return static_cast<float*>(data_.get()); }
  uint16_t* halves() const { return static_cast<uint16_t*>(data_.get()); }
  uint32_t* words() const { return static_cast<uint32_t*>(data_.get()); }

 private:
  struct Free {
    void operator()(void* p) const { ::operator delete(p, std::align_val_t(64)); }
  };
  std::unique_ptr<void, Free> data_;
};

enum class KernelKind { rows, tiles };

constexpr int kFew = 32;  // layers with fewer inputs or outputs stay float32; those with fewer outputs are kept by output
inline bool takes_bf16(const Stage& s, bool first) { return !first && s.in >= kFew && s.out >= kFew; }

class Packing {
 public:
  // bf16: layers that take it (hidden ones, not the first) keep bf16 weights; all others, and those with a weight that
  // bf16 cannot hold as a finite number, stay float32.
  Packing(const Program& program, const Geometry& geometry, KernelKind kind, bool bf16);
  const Packed& view() const { return view_; }

 private:
  friend class Packer;
  Packed view_;
  std::vector<Buffer> buffers_;
  std::vector<PackedMember> members_;
  std::deque<std::vector<PackedStage>> stages_;
  std::deque<std::vector<PackedOp>> ops_;
};

}  // namespace dtag
