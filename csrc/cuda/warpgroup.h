// Part of cuda/primitives.h: what four warps, a warpgroup, do together. Matrix products of a warpgroup need compute
// capability 9.0a.
//
// A product's sums D (64 x width) are spread over the warps, 16 rows each, and over a warp's lanes as D of a warp's products
// is, eight columns after another: d[4 j + i] is what d[i] would be for the columns 8 j..8 j + 7. A (64 x 16) comes from
// registers, laid out as A of a warp's products. B (16 x width) lies in shared memory as a part of a "swizzled" matrix of
// bf16 numbers: strips of 64 columns, in each a row is 128 bytes, whose eight pieces of 16 bytes are exchanged by row.
#pragma once
#include <cuda_runtime.h>
#include <stdint.h>

namespace dtag::gpu {

constexpr int kWarpgroup = 128;

// ---- Barriers of one warpgroup; others of the block go on.

DTAG_INLINE int warpgroup_index() { return int(threadIdx.x / kWarpgroup); }
// Barrier 0 is the whole block's.
DTAG_INLINE void sync_warpgroup() { asm volatile("bar.sync %0, 128;" ::"r"(warpgroup_index() + 1) : "memory"); }
DTAG_INLINE bool sync_warpgroup_or(bool x) {
  int any;
  asm volatile(
      "{\n"
      ".reg .pred given, any;\n"
      "setp.ne.b32 given, %1, 0;\n"
      "bar.red.or.pred any, %2, 128, given;\n"
      "selp.b32 %0, 1, 0, any;\n"
      "}\n"
      : "=r"(any)
      : "r"(int(x)), "r"(warpgroup_index() + 1)
      : "memory");
  return any != 0;
}

// ---- Products.

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)

// Before a thread's ordinary stores to shared memory are read by products: then a barrier, then the products.
DTAG_INLINE void publish_to_wgmma() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
// Behind the last access to the registers of D and A, before the products that take them.
DTAG_INLINE void wgmma_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
// Behind those that add to d: its registers and those of A may be touched again. The compiler, to which the products look
// finished before, must move nothing that reads d to the front of the wait.
template <int count>
DTAG_INLINE void wgmma_end(float (&d)[count]) {
  asm volatile("wgmma.commit_group.sync.aligned;\n wgmma.wait_group.sync.aligned 0;" ::: "memory");
  DTAG_UNROLL
  for (int i = 0; i < count; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

#define DTAG_TEN(n) "%" #n "0, %" #n "1, %" #n "2, %" #n "3, %" #n "4, %" #n "5, %" #n "6, %" #n "7, %" #n "8, %" #n "9, "
#define DTAG_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define DTAG_D16(i) DTAG_D4(i), DTAG_D4(i + 4), DTAG_D4(i + 8), DTAG_D4(i + 12)
#define DTAG_D32 DTAG_D16(0), DTAG_D16(16)
#define DTAG_D64 DTAG_D32, DTAG_D16(32), DTAG_D16(48)
#define DTAG_D128 DTAG_D64, DTAG_D16(64), DTAG_D16(80), DTAG_D16(96), DTAG_D16(112)
#define DTAG_PRODUCT(shape, sums, a0, a1, a2, a3, b, add, turned, ...)                                                \
  asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, " add ", 0;\n"                                                   \
               "wgmma.mma_async.sync.aligned." shape ".f32.bf16.bf16 {" sums "}, {" a0 ", " a1 ", " a2 ", " a3 "}, "  \
               b ", add, 1, 1, " turned ";\n}\n"                                                                      \
               : __VA_ARGS__                                                                                          \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(place), "r"(int(more)), "n"(int(turn)))

// d = a b, or d += a b with `more`. B's 16 inputs are those from 16 k on. turn = false: the matrix has a row for each of B's
// columns; true: for each of its rows. `rows`: those of the matrix, all strips as long. Its start: a multiple of 1024 bytes.
template <int width, bool turn>
DTAG_INLINE void wgmma_bf16(float (&d)[width / 2], const uint32_t (&a)[4], Shared<const uint16_t> matrix, int rows, int k, bool more) {
  const uint32_t strip = uint32_t(rows) * 128, eight_rows = 8 * 128;
  // Along a row a step of 16 numbers is 32 bytes within a strip, which the exchange of pieces leaves in place; eight rows
  // further is `eight_rows`, 64 columns further a strip.
  const uint32_t start = shared_address(matrix) + (turn ? uint32_t(2 * k) * eight_rows : uint32_t(k / 4) * strip + uint32_t(k % 4) * 32);
  const uint64_t swizzle_128_bytes = 1;
  const uint64_t place = uint64_t(start >> 4 & 0x3fff) | uint64_t((turn ? strip : 16) >> 4) << 16 |
                         uint64_t(eight_rows >> 4) << 32 | swizzle_128_bytes << 62;
  static_assert(width == 64 || width == 128 || width == 256);
  if constexpr (width == 64)
    DTAG_PRODUCT("m64n64k16", "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, " DTAG_TEN(1) DTAG_TEN(2) "%30, %31", "%32", "%33",
                 "%34", "%35", "%36", "%37", "%38", DTAG_D32);
  else if constexpr (width == 128)
    DTAG_PRODUCT("m64n128k16",
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, " DTAG_TEN(1) DTAG_TEN(2) DTAG_TEN(3) DTAG_TEN(4) DTAG_TEN(5)
                 "%60, %61, %62, %63", "%64", "%65", "%66", "%67", "%68", "%69", "%70", DTAG_D64);
  else
    DTAG_PRODUCT("m64n256k16",
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, " DTAG_TEN(1) DTAG_TEN(2) DTAG_TEN(3) DTAG_TEN(4) DTAG_TEN(5)
                 DTAG_TEN(6) DTAG_TEN(7) DTAG_TEN(8) DTAG_TEN(9) DTAG_TEN(10) DTAG_TEN(11)
                 "%120, %121, %122, %123, %124, %125, %126, %127", "%128", "%129", "%130", "%131", "%132", "%133", "%134",
                 DTAG_D128);
}

#undef DTAG_TEN
#undef DTAG_D4
#undef DTAG_D16
#undef DTAG_D32
#undef DTAG_D64
#undef DTAG_D128
#undef DTAG_PRODUCT
#endif

}  // namespace dtag::gpu
