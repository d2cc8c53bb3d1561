// Matrix products of a warp against plain loops. The numbers are small integers, so that every sum is exact.
#include <cmath>
#include <limits>

#include "check.h"

using namespace dtag::gpu;

namespace simt_test {
namespace {

float a_at(int row, int k) { return float((row * 7 + k * 3) % 17 - 8); }
float b_at(int k, int column) { return float((k * 5 + column * 11) % 13 - 6); }

// D = A B + 1 of 16 x 16 x 16 by one warp; A row by row, B also row by row (transposed by the load) or column by column.
DTAG_KERNEL(kWarp) product_bf16(bool transposed, float* out) {
  const auto a = shared_part<uint32_t>(0, 16 * 8), b = shared_part<uint32_t>(1024, 16 * 8);
  const int lane = lane_index();
  for (int i = lane; i < 16 * 8; i += kWarp) {
    const int row = i / 8, k = i % 8 * 2;
    a[i] = pack_bf16(a_at(row, k), a_at(row, k + 1));
    b[i] = transposed ? pack_bf16(b_at(row, k), b_at(row, k + 1)) : pack_bf16(b_at(k, row), b_at(k + 1, row));
  }
  sync_warp();
  const auto a_rows = shared_part<uint16_t>(0, 256), b_rows = shared_part<uint16_t>(1024, 256);
  uint32_t fa[4], fb[4];
  load_matrix(fa, a_rows + lane % 16 * 16 + lane / 16 * 8);
  if (transposed)  // matrices: k 0.. and 8.. of columns 0..7, the same of columns 8..15
    load_matrix_trans(fb, b_rows + lane % 16 * 16 + lane / 16 * 8);
  else
    load_matrix(fb, b_rows + (lane / 16 * 8 + lane % 8) * 16 + lane / 8 % 2 * 8);
  for (int half = 0; half < 2; ++half) {
    float d[4] = {1.f, 1.f, 1.f, 1.f};
    const uint32_t pair[2] = {fb[2 * half], fb[2 * half + 1]};
    mma_bf16(d, fa, pair);
    for (int i = 0; i < 4; ++i) out[(lane / 4 + i / 2 * 8) * 16 + half * 8 + lane % 4 * 2 + i % 2] = d[i];
  }
}

DTAG_KERNEL(kWarp) product_tf32(float* out) {
  const int g = lane_index() / 4, t = lane_index() % 4;
  for (int half = 0; half < 2; ++half) {
    float d[4] = {1.f, 1.f, 1.f, 1.f};
    for (int k = 0; k < 16; k += 8) {
      const uint32_t a[4] = {round_tf32(a_at(g, k + t)), round_tf32(a_at(g + 8, k + t)), round_tf32(a_at(g, k + t + 4)),
                             round_tf32(a_at(g + 8, k + t + 4))};
      const uint32_t b[2] = {round_tf32(b_at(k + t, half * 8 + g)), round_tf32(b_at(k + t + 4, half * 8 + g))};
      mma_tf32(d, a, b);
    }
    for (int i = 0; i < 4; ++i) out[(g + i / 2 * 8) * 16 + half * 8 + t * 2 + i % 2] = d[i];
  }
}

void test_rounding() {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const auto bf16 = [](float x) { return pack_bf16(x, 0.f); };
  check(pack_bf16(1.f, -2.f) == 0xc0003f80u, "pack_bf16: the first number in the lower half");
  check(bf16(1.f + 0x1p-8f) == 0x3f80u && bf16(1.f + 3 * 0x1p-8f) == 0x3f82u, "pack_bf16: ties to even");
  check(bf16(1.f + 0x1p-8f + 0x1p-20f) == 0x3f81u, "pack_bf16: to nearest");
  check(bf16(inf) == 0x7f80u && bf16(-inf) == 0xff80u && bf16(3.4e38f) == 0x7f80u, "pack_bf16: infinity");
  check((bf16(nan) & 0x7fffu) > 0x7f80u, "pack_bf16: not a number");
  const auto tf32 = [](float x) { return dtag::simt::float_of(round_tf32(x)); };
  const float tie = 1.f + 0x1p-11f, above = 1.f + 0x1p-10f;
  check(tf32(tie) == above && tf32(-tie) == -above, "round_tf32: ties away from zero");
  check(tf32(1.f + 0x1p-11f - 0x1p-20f) == 1.f && tf32(0.f) == 0.f, "round_tf32: to nearest");
  check(tf32(inf) == inf && tf32(3.4028235e38f) == inf && std::isnan(tf32(nan)), "round_tf32: infinity, not a number");
}

}  // namespace

void test_products() {
  const Shape shape{.threads = kWarp, .shared_bytes = 2048};
  std::vector<float> out(256);
  const auto right = [&] {
    for (int i = 0; i < 256; ++i) {
      float sum = 1.f;
      for (int k = 0; k < 16; ++k) sum += a_at(i / 16, k) * b_at(k, i % 16);
      if (out[size_t(i)] != sum) return false;
    }
    std::fill(out.begin(), out.end(), 0.f);
    return true;
  };
  must_run("mma_bf16 and load_matrix", shape, [&] { product_bf16(false, out.data()); }, right);
  must_run("mma_bf16 and load_matrix_trans", shape, [&] { product_bf16(true, out.data()); }, right);
  must_run("mma_tf32", shape, [&] { product_tf32(out.data()); }, right);
  must_fault("mma_tf32 without round_tf32", {FaultKind::unrounded}, shape, [] {
    float d[4] = {};
    const uint32_t a[4] = {dtag::simt::bits_of(0.1f), 0, 0, 0}, b[2] = {};
    mma_tf32(d, a, b);
  });
  test_rounding();
}

}  // namespace simt_test
