// Pointers into shared memory that check every access. They stand for T* of the GPU, with what kernels use of it.
#pragma once
#include <cstddef>
#include <type_traits>

#include "simt_host/machine.h"

namespace dtag::simt {

// p[i] or *p. To be used at once: `auto x = p[i]` would read later than it says, and therefore cannot be used.
template <class T>
class Reference {
  using Value = std::remove_const_t<T>;

 public:
  Reference(SharedMemory* memory, int64_t offset, Part part) : memory_(memory), offset_(offset), part_(part) {}
  operator Value() && { return get(); }
  const Reference& operator=(Value x) && { return set(x); }
  const Reference& operator=(const Reference& r) && { return set(r.get()); }
  template <class U>
  const Reference& operator=(Reference<U>&& r) && { return set(Value(static_cast<Reference<U>&&>(r))); }
  Reference(const Reference&) = default;
  const Reference& operator++() && { return set(Value(get() + 1)); }
  template <class U> const Reference& operator+=(U x) && { return set(Value(get() + x)); }
  template <class U> const Reference& operator-=(U x) && { return set(Value(get() - x)); }
  template <class U> const Reference& operator*=(U x) && { return set(Value(get() * x)); }
  template <class U> const Reference& operator/=(U x) && { return set(Value(get() / x)); }
  template <class U> const Reference& operator|=(U x) && { return set(Value(get() | x)); }
  template <class U> const Reference& operator&=(U x) && { return set(Value(get() & x)); }

 private:
  template <class> friend class Reference;
  Value get() const { return memory_->read<Value>(self(), offset_, part_); }
  const Reference& set(Value x) const {
    static_assert(!std::is_const_v<T>, "written through a pointer to const");
    memory_->write<Value>(self(), offset_, part_, x);
    return *this;
  }
  SharedMemory* memory_;
  int64_t offset_;
  Part part_;
};

template <class T>
class Shared {
  static_assert(std::is_trivially_copyable_v<T> &&
                (sizeof(T) == 1 || sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8));

 public:
  Shared() = default;
  Shared(std::nullptr_t) {}
  Shared(SharedMemory* memory, int64_t offset, Part part) : memory_(memory), offset_(offset), part_(part) {}
  template <class U, class = std::enable_if_t<std::is_same_v<const U, T> && !std::is_same_v<U, T>>>
  Shared(const Shared<U>& p) : memory_(p.memory()), offset_(p.offset()), part_(p.part()) {}

  Reference<T> operator*() const { return at(0); }
  Reference<T> operator[](int64_t i) const { return at(i); }

  Shared& operator+=(int64_t i) {
    offset_ += i * int64_t(sizeof(T));
    return *this;
  }
  Shared& operator-=(int64_t i) { return *this += -i; }
  Shared& operator++() { return *this += 1; }
  Shared& operator--() { return *this += -1; }
  Shared operator++(int) { return std::exchange(*this, *this + 1); }
  Shared operator--(int) { return std::exchange(*this, *this - 1); }
  friend Shared operator+(Shared p, int64_t i) { return p += i; }
  friend Shared operator+(int64_t i, Shared p) { return p += i; }
  friend Shared operator-(Shared p, int64_t i) { return p -= i; }
  friend int64_t operator-(Shared p, Shared q) { return (p.offset_ - q.offset_) / int64_t(sizeof(T)); }
  friend bool operator==(Shared p, Shared q) { return p.memory_ == q.memory_ && p.offset_ == q.offset_; }
  friend auto operator<=>(Shared p, Shared q) { return p.offset_ <=> q.offset_; }
  explicit operator bool() const { return memory_ != nullptr; }

  SharedMemory* memory() const { return memory_; }
  int64_t offset() const { return offset_; }
  Part part() const { return part_; }

 private:
  Reference<T> at(int64_t i) const {
    if (!memory_) throw Fault(FaultKind::usage, "a null pointer to shared memory was used");
    return {memory_, offset_ + i * int64_t(sizeof(T)), part_};
  }
  SharedMemory* memory_ = nullptr;
  int64_t offset_ = 0;
  Part part_;
};

template <class T>
inline Shared<T> shared_part(uint32_t offset, int64_t count) {
  Thread& me = self();
  const int64_t end = int64_t(offset) + count * int64_t(sizeof(T));
  const Part all{0, uint32_t(me.memory->bytes())};
  me.memory->check_aligned(me, offset, 16, all, "part");
  if (count < 0 || end > me.memory->bytes()) me.memory->check_bounds(me, offset, size_t(end - offset), all, "part");
  return {me.memory, offset, {offset, uint32_t(end)}};
}

// The memory that `p` points into, after the checks of an access to so many bytes, aligned as much.
template <class T>
inline SharedMemory& checked(const Thread& me, Shared<T> p, size_t bytes, const char* what) {
  if (!p) throw Fault(FaultKind::usage, name_thread(me) + ": " + what + " with a null pointer");
  p.memory()->check_place(me, p.offset(), bytes, p.part(), what);
  p.memory()->check_aligned(me, p.offset(), int64_t(bytes), p.part(), what);
  return *p.memory();
}

struct alignas(16) Float4 {
  float v[4];
};

inline void check_global_alignment(const void* p) {
  if (reinterpret_cast<uintptr_t>(p) % 16 != 0)
    throw Fault(FaultKind::alignment, 
                name_thread(self()) + ": 16 bytes of global memory at an address that is not a multiple of 16");
}

inline Float4 load4(const float* p) {
  check_global_alignment(p);
  Float4 x;
  std::memcpy(&x, p, 16);
  return x;
}
inline void store4(float* p, const Float4& x) {
  check_global_alignment(p);
  std::memcpy(p, &x, 16);
}
inline Float4 load4(Shared<const float> p) {
  Thread& me = self();
  return checked(me, p, 16, "load4").read<Float4>(me, p.offset(), p.part());
}
inline void store4(Shared<float> p, const Float4& x) {
  Thread& me = self();
  checked(me, p, 16, "store4").write<Float4>(me, p.offset(), p.part(), x);
}

}  // namespace dtag::simt
