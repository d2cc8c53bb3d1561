// What a warpgroup does together: its barrier, and products against plain loops. The numbers are small integers, so that
// every sum is exact.
#include <cmath>

#include "check.h"

using namespace dtag::gpu;

namespace simt_test {
namespace {

constexpr int kRows = 64, kDepth = 96;  // of A; two strips, the second half full

float a_at(int row, int k) { return float((row * 7 + k * 3) % 9 - 4); }
float b_at(int k, int column) { return float((k * 5 + column * 11) % 7 - 3); }

int place(int row, int column, int rows) {
  return column / 64 * rows * 64 + row * 64 + ((column % 64 / 8) ^ (row % 8)) * 8 + column % 8;
}

// The matrix of B, all of whose rows are written by all threads of the block.
template <int width, bool turn>
Shared<uint16_t> write_matrix(bool publish = true, uint32_t offset = 1024) {
  constexpr int rows = turn ? kDepth : width, columns = turn ? width : kDepth, strips = (columns + 63) / 64;
  const auto matrix = shared_part<uint16_t>(offset, strips * rows * 64);
  for (int at = thread_index(); at < rows * columns; at += kWarpgroup) {
    const int r = at / columns, c = at % columns;
    matrix[place(r, c, rows)] = uint16_t(pack_bf16(turn ? b_at(r, c) : b_at(c, r), 0.f));
  }
  if (publish) publish_to_wgmma();
  return matrix;
}

void operand(int k, uint32_t (&a)[4]) {
  const int lane = lane_index(), row = warp_index() % 4 * 16 + lane / 4;
  for (int i = 0; i < 4; ++i) {
    const int r = row + i % 2 * 8, c = 16 * k + lane % 4 * 2 + i / 2 * 8;
    a[i] = pack_bf16(a_at(r, c), a_at(r, c + 1));
  }
}

template <int width, bool turn>
DTAG_KERNEL(kWarpgroup) multiply(float* out) {
  const auto matrix = write_matrix<width, turn>();
  sync_warpgroup();
  float sum[width / 2] = {};
  uint32_t a[kDepth / 16][4];
  for (int k = 0; k < kDepth / 16; ++k) operand(k, a[k]);
  wgmma_begin();
  for (int k = 0; k < kDepth / 16; ++k) wgmma_bf16<width, turn>(sum, a[k], matrix, turn ? kDepth : width, k, k > 0);
  wgmma_end(sum);
  const int lane = lane_index(), row = warp_index() % 4 * 16 + lane / 4;
  for (int i = 0; i < width / 2; ++i)
    out[(row + i / 2 % 2 * 8) * width + i / 4 * 8 + lane % 4 * 2 + i % 2] = sum[i];
}

template <int width, bool turn>
void test_product() {
  std::vector<float> out(size_t(kRows * width));
  const auto right = [&] {
    for (int r = 0; r < kRows; ++r)
      for (int c = 0; c < width; ++c) {
        float sum = 0.f;
        for (int k = 0; k < kDepth; ++k) sum += a_at(r, k) * b_at(k, c);
        if (out[size_t(r * width + c)] != sum) return false;
      }
    return true;
  };
  Shape shape{1, 1, kWarpgroup, 80 * 1024};
  must_run(turn ? "product, a row for each input" : "product, a row for each output", shape, [&] { multiply<width, turn>(out.data()); },
           right);
}

enum class Mistake {
  unpublished, unsynchronised, unopened, unclosed, read_early, written_early, operand_changed, misaligned, too_few_rows, other_device
};

// One product of 64 columns, with one thing wrong.
void wrong_product(Mistake m, float* out) {
  const auto matrix = write_matrix<64, false>(m != Mistake::unpublished, m == Mistake::misaligned ? 1040 : 1024);
  if (m != Mistake::unsynchronised) sync_warpgroup();
  float sum[32] = {};
  uint32_t a[4];
  operand(0, a);
  if (m != Mistake::unopened) wgmma_begin();
  wgmma_bf16<64, false>(sum, a, matrix, m == Mistake::too_few_rows ? 56 : 64, 0, true);
  if (m == Mistake::read_early) out[thread_index()] = sum[0];
  if (m == Mistake::written_early) sum[3] = 1.f;
  if (m == Mistake::operand_changed) a[2] ^= 1u;
  if (m != Mistake::unclosed) wgmma_end(sum);
}

void test_mistakes() {
  Shape shape{1, 1, kWarpgroup, 80 * 1024};
  std::vector<float> out(kWarpgroup);
  const auto fault = [&](const char* what, Mistake m, FaultKind kind) {
    must_fault(what, {kind}, shape, [&] { wrong_product(m, out.data()); });
  };
  fault("product of a matrix not published", Mistake::unpublished, FaultKind::unpublished);
  fault("product without a barrier before", Mistake::unsynchronised, FaultKind::race);
  fault("product without wgmma_begin", Mistake::unopened, FaultKind::registers);
  fault("product without wgmma_end", Mistake::unclosed, FaultKind::registers);
  fault("sums written before wgmma_end", Mistake::written_early, FaultKind::registers);
  fault("operand changed before wgmma_end", Mistake::operand_changed, FaultKind::registers);
  fault("matrix not at a multiple of 1024 bytes", Mistake::misaligned, FaultKind::alignment);
  fault("product beyond the matrix", Mistake::too_few_rows, FaultKind::bounds);
  must_run("sums read before wgmma_end", shape, [&] { wrong_product(Mistake::read_early, out.data()); },
           [&] { return std::isnan(out[0]) && std::isnan(out[kWarpgroup - 1]); });
  shape.capability = 100;
  fault("product on another device", Mistake::other_device, FaultKind::usage);
}

// Two warpgroups, each adding up its own threads' numbers in its own number of rounds.
void rounds_of_a_group(float* out) {
  const int group = warpgroup_index(), t = thread_index() % kWarpgroup;
  const auto numbers = shared_part<float>(uint32_t(group * kWarpgroup * 4), kWarpgroup);
  int round = 0;
  for (; sync_warpgroup_or(t == 5 && round < 3 + 4 * group); ++round) {
    numbers[t] = float(round);
    sync_warpgroup();
    out[group * kWarpgroup + t] = numbers[(t + 1) % kWarpgroup] + numbers[(t + 64) % kWarpgroup];
    sync_warpgroup();
  }
}

void test_barrier() {
  std::vector<float> out(2 * kWarpgroup);
  Shape shape{1, 1, 2 * kWarpgroup, 1024};
  must_run("two warpgroups with barriers of their own", shape, [&] { rounds_of_a_group(out.data()); },
           [&] { return out[0] == 4.f && out[kWarpgroup] == 12.f; });
  must_fault("a warpgroup reads what the other wrote", {FaultKind::race, FaultKind::unwritten}, shape, [] {
    const auto numbers = shared_part<float>(0, 2 * kWarpgroup);
    numbers[thread_index()] = 1.f;
    sync_warpgroup();
    if (float(numbers[(thread_index() + kWarpgroup) % (2 * kWarpgroup)]) != 1.f) sync_warpgroup();
  });
  must_fault("a warp of the warpgroup never comes", {FaultKind::barrier}, shape, [] {
    if (warp_index() != 2) sync_warpgroup();
  });
  must_fault("warps of a warpgroup at different barriers", {FaultKind::divergence}, shape, [] {
    if (warp_index() == 1)
      sync_warpgroup_or(false);
    else
      sync_warpgroup();
  });
  shape.threads = 96;
  must_fault("a warpgroup of three warps", {FaultKind::usage}, shape, [] { sync_warpgroup(); });
}

}  // namespace

void test_warpgroups() {
  test_product<64, false>();
  test_product<64, true>();
  test_product<128, false>();
  test_product<128, true>();
  test_product<256, false>();
  test_product<256, true>();
  test_mistakes();
  test_barrier();
}

}  // namespace simt_test
