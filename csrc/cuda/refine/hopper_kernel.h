// Many rows on Hopper's tensor cores, in bf16 as the tensor kernel. A cluster has one block per member, whose matrices stay in
// its shared memory. A warpgroup carries 64 rows through all iterations, from layer to layer in registers: what a product
// leaves is laid out as the next one takes it. The members' warpgroups of the same rows exchange Q and the action's gradient
// once an iteration, after which each walks the rows itself, with the same bits. The warpgroups of a block never wait for
// each other, so that one's products run beside the other's arithmetic.
#pragma once
#include "cuda/refine/ensemble.h"
#include "cuda/refine/hopper_params.h"
#include "cuda/refine/meet_in_cluster.h"
#include "cuda/refine/row_clock.h"
#include "cuda/refine/tensor_plane.h"
#include "cuda/refine/tile_rows.h"

namespace dtag::gpu {

using cuda::HopperGroup;
using cuda::HopperMember;
using cuda::HopperMemory;
using cuda::HopperParams;

struct HopperTile {
  static constexpr int kRows = cuda::kHopperRows;
};

// Slopes of the first layer's activation, one for each of a thread's sums, in shared memory, where only the thread that wrote
// them reads them: ReLU's as bits, others as bf16.
template <class Shape>
class Slopes {
 public:
  DTAG_MEMBER explicit Slopes(uint32_t offset) : offset_(offset) {}

  // Sums 8 k..8 k + 7.
  DTAG_MEMBER void keep(int k, const float (&slope)[8]) {
    if constexpr (kBits) {
      if (k % 4 == 0) bits_ = 0;
      DTAG_UNROLL
      for (int i = 0; i < 8; ++i) bits_ |= uint32_t(slope[i] != 0.f) << (k % 4 * 8 + i);
      if (k % 4 == 3) word(k / 4) = bits_;
    } else {
      DTAG_UNROLL
      for (int i = 0; i < 8; i += 2) word(4 * k + i / 2) = pack_bf16(slope[i], slope[i + 1]);
    }
  }
  DTAG_MEMBER void apply(int k, float (&x)[8]) {
    if constexpr (kBits)
      if (k % 4 == 0) bits_ = word(k / 4);
    DTAG_UNROLL
    for (int i = 0; i < 8; i += 2) {
      if constexpr (kBits) {
        const uint32_t two = bits_ >> (k % 4 * 8 + i);
        x[i] = two & 1 ? x[i] : 0.f;
        x[i + 1] = two & 2 ? x[i + 1] : 0.f;
      } else {
        const Pair slope = unpack_bf16(word(4 * k + i / 2));
        x[i] *= slope.a;
        x[i + 1] *= slope.b;
      }
    }
  }

 private:
  static constexpr bool kBits = Shape::kKind == Activation::relu;
  DTAG_MEMBER decltype(auto) word(int i) const {
    return shared_part<uint32_t>(offset_, Shape::kWidth / (kBits ? 64 : 4) * kWarpgroup)[i * kWarpgroup + OneWarpgroup::thread()];
  }
  uint32_t offset_, bits_ = 0;
};

template <class Shape>
class HopperKernel {
 public:
  static constexpr int kWidth = Shape::kWidth, kSteps = kWidth / 16, kRows = cuda::kHopperRows;
  static constexpr Activation kKind = Shape::kKind;
  using Rows = TileRows<HopperTile, cuda::TileMemory, OneWarpgroup>;

  DTAG_MEMBER explicit HopperKernel(const HopperParams& params)
      : p_(params), m_(params.memory), g_(params.memory.group[warpgroup_index()]), dims_(params.program.action_dim),
        member_(params.program.members[cluster_rank()]),
        exchange_(g_.inbox, g_.barrier, 0, cluster_size(), (dims_ + 1) * kRows), slopes_(g_.slopes) {}

  DTAG_MEMBER void run() {
    load_weights();
    if (OneWarpgroup::thread() == 0) {
      exchange_.init();
      mbarrier_init_fence();
    }
    publish_to_wgmma();
    sync_cluster();
    const Rows rows(p_.call, p_.settings, g_.walk, dims_, kRows, cluster_rank() == 0);
    const RowClock<HopperTile, OneWarpgroup> clock(g_.clock);
    // Clusters first, then their second warpgroups. A tile holds 64 rows: no memory has 2^31 of them.
    const int clusters = block_count() / cluster_size(), first_tile = block_index() / cluster_size();
    for (int tile = warpgroup_index() * clusters + first_tile; tile < p_.tiles; tile += clusters * p_.groups) {
      const int64_t state = int64_t(tile) * rows.states_each();
      for (int first = 0; first < p_.call.candidates; first += rows.candidates_each()) {
        rows.begin(state, first);
        clock.begin();
        if (first == 0) write_states(rows, state);
        int i = 0;
        for (bool more = true; more && rows.any_walking(); ++i) {
          more = rows.any_going_on(i);
          if (more || rows.last_q_needed()) evaluate(more);
          rows.observe(state, first, i);
          if (more) rows.step(state, first, i, clock.ticked(p_.settings));
        }
        rows.finish(state, first, i);
      }
    }
    sync_cluster();  // nobody ends while others may still send to it
  }

 private:
  // ---- Places.
  DTAG_MEMBER const float* numbers(int place) const { return p_.program.numbers + place; }
  DTAG_MEMBER int inputs() const { return dims_ + p_.program.state_dim; }  // but for the ones
  DTAG_MEMBER int input_steps() const { return p_.program.input_steps; }
  DTAG_MEMBER Shared<uint16_t> matrix(uint32_t offset, int64_t columns) const {
    return shared_part<uint16_t>(offset, columns * kWidth);
  }
  DTAG_MEMBER Shared<uint16_t> hidden() const { return matrix(m_.hidden, kWidth); }
  DTAG_MEMBER Shared<uint16_t> first() const { return matrix(m_.first, cuda::kHopperInputs); }
  DTAG_MEMBER int plane_stride() const { return 2 * 16 * input_steps() + 8; }
  DTAG_MEMBER Shared<uint16_t> plane() const { return shared_part<uint16_t>(g_.inputs, int64_t(plane_stride()) * kRows); }
  // Of a number per unit: those of sums 8 k..8 k + 7 of a thread are four in a row.
  DTAG_MEMBER static int unit_place(int u) { return (u / 16 * 4 + u % 8 / 2) * 4 + u % 16 / 8 * 2 + u % 2; }
  DTAG_MEMBER Float4 of_units(uint32_t offset, int k) const {
    return load4(shared_part<float>(offset, kWidth) + (k * 4 + lane_index() % 4) * 4);
  }
  // Of a swizzled matrix, in 16-bit numbers.
  DTAG_MEMBER static int swizzled(int row, int column) {
    return column / 64 * kWidth * 64 + row * 64 + ((column % 64 / 8) ^ (row % 8)) * 8 + column % 8;
  }
  // The first of this warp's 16 rows.
  DTAG_MEMBER static int warp_row() { return warp_index() % (kWarpgroup / kWarp) * 16; }

  // ---- Once per launch, once per tile.
  DTAG_MEMBER void load_weights() {
    const int threads = kWarpgroup * p_.groups;
    constexpr int kPieces = kWidth / 8;  // 16 bytes each, of a row
    const Shared<float> hidden_words = shared_part<float>(m_.hidden, kWidth * kWidth / 2);
    for (int at = thread_index(); at < kWidth * kPieces; at += threads)
      copy_async16(hidden_words + swizzled(at / kPieces, at % kPieces * 8) / 2, numbers(member_.hidden) + at * 4);
    copy_async_commit();

    for (int at = thread_index(); at < kWidth * input_steps() * 16; at += threads) {
      const int u = at % kWidth, i = at / kWidth;
      uint32_t x = 0;
      if (i < inputs())
        x = part_of(i < dims_ ? numbers(member_.action)[i * kWidth + u] : numbers(member_.state)[(i - dims_) * kWidth + u], 0);
      else if (i < inputs() + 2)
        x = part_of(numbers(member_.bias[0])[u], i - inputs());
      first()[swizzled(u, i)] = uint16_t(x);
    }
    for (int u = thread_index(); u < kWidth; u += threads) {
      shared_part<float>(m_.bias, kWidth)[unit_place(u)] = numbers(member_.bias[1])[u];
      shared_part<float>(m_.head, kWidth)[unit_place(u)] = numbers(member_.head)[u];
    }
    copy_async_wait<0>();
  }

  // x rounded to bf16, or what that left.
  DTAG_MEMBER static uint32_t part_of(float x, int part) {
    const uint32_t rounded = pack_bf16(x, 0.f);
    return part == 0 ? rounded : pack_bf16(remainder_of(x, unpack_bf16(rounded).a), 0.f);
  }
  // Input i of a row, both parts.
  DTAG_MEMBER void write_input(int row, int i, float x) const {
    const Shared<uint16_t> to = plane() + row * plane_stride() + i;
    to[0] = uint16_t(part_of(x, 0));
    to[16 * input_steps()] = uint16_t(part_of(x, 1));
  }

  DTAG_MEMBER void write_states(const Rows& rows, int64_t from) const {
    const int t = OneWarpgroup::thread();
    for (int at = t; at < kRows * p_.program.state_dim; at += kWarpgroup)
      write_input(at % kRows, dims_ + at / kRows, rows.state(from, at % kRows, at / kRows));
    constexpr uint16_t kOne = 0x3f80;
    for (int at = t; at < kRows * (16 * input_steps() - inputs()); at += kWarpgroup) {
      const Shared<uint16_t> to = plane() + at % kRows * plane_stride() + inputs() + at / kRows;
      to[0] = at / kRows < 2 ? kOne : uint16_t(0);
      to[16 * input_steps()] = uint16_t(0);
    }
  }

  // ---- One iterate: Q of every row and, when `with_gradient`, its gradient, reduced over the members.
  DTAG_MEMBER void evaluate(bool with_gradient) {
    if (OneWarpgroup::thread() == 0) exchange_.expect();
    const Shared<const float> action = shared_part<float>(g_.walk.action, int64_t(dims_) * kRows);
    for (int at = OneWarpgroup::thread(); at < dims_ * kRows; at += kWarpgroup) write_input(at % kRows, at / kRows, action[at]);
    sync_warpgroup();

    float sum[kWidth / 2];
    first_product(sum);
    uint32_t x[kSteps][4];  // a layer's output, then a gradient
    DTAG_UNROLL
    for (int k = 0; k < kSteps; ++k) {
      keep_order();  // or registers overflow
      float value[8], slope[8];
      DTAG_UNROLL
      for (int i = 0; i < 8; ++i) activate<kKind, float>(sum[8 * k + i], member_.p0[0], member_.p1[0], value[i], slope[i]);
      slopes_.keep(k, slope);
      to_operand(value, x[k]);
    }

    DTAG_UNROLL
    for (int k = 0; k < kSteps; ++k) {
      const Float4 bias = of_units(m_.bias, k);
      DTAG_UNROLL
      for (int i = 0; i < 8; ++i) sum[8 * k + i] = bias.v[i / 4 * 2 + i % 2];
    }
    wgmma_begin();
    DTAG_UNROLL
    for (int k = 0; k < kSteps; ++k) wgmma_bf16<kWidth, false>(sum, x[k], hidden(), kWidth, k, true);
    wgmma_end(sum);

    float q[2] = {0.f, 0.f};  // of rows lane / 4 and 8 more
    DTAG_UNROLL
    for (int k = 0; k < kSteps; ++k) {
      keep_order();
      const Float4 head = of_units(m_.head, k);
      float gradient[8];
      DTAG_UNROLL
      for (int i = 0; i < 8; ++i) {
        const float weight = head.v[i / 4 * 2 + i % 2];
        float value, slope;
        activate<kKind, float>(sum[8 * k + i], member_.p0[1], member_.p1[1], value, slope);
        q[i / 2 % 2] = fma(weight, value, q[i / 2 % 2]);
        gradient[i] = weight * slope;
      }
      to_operand(gradient, x[k]);
    }
    send_q(q);
    if (with_gradient) {
      wgmma_begin();
      DTAG_UNROLL
      for (int k = 0; k < kSteps; ++k) wgmma_bf16<kWidth, true>(sum, x[k], hidden(), kWidth, k, k > 0);
      wgmma_end(sum);
      DTAG_UNROLL
      for (int k = 0; k < kSteps; ++k) {
        float gradient[8];
        DTAG_UNROLL
        for (int i = 0; i < 8; ++i) gradient[i] = sum[8 * k + i];
        slopes_.apply(k, gradient);
        to_operand(gradient, x[k]);
      }
    }
    for (int from = 0; from < dims_; from += 16) action_gradient(x, from, with_gradient);
    if (OneWarpgroup::thread() < kRows) take_result();
    exchange_.next();
  }

  // Sums 8 k..8 k + 7 are operand k of the next product.
  DTAG_MEMBER static void to_operand(const float (&x)[8], uint32_t (&operand)[4]) {
    DTAG_UNROLL
    for (int i = 0; i < 4; ++i) operand[i] = pack_bf16(x[2 * i], x[2 * i + 1]);
  }

  template <int steps>
  DTAG_MEMBER void first_product_of(float (&sum)[kWidth / 2]) const {
    const Shared<const uint16_t> mine = plane() + (warp_row() + lane_index() % 16) * plane_stride() + lane_index() / 16 * 8;
    uint32_t x[2 * steps][4];
    DTAG_UNROLL
    for (int k = 0; k < 2 * steps; ++k) load_matrix(x[k], mine + 16 * k);
    wgmma_begin();
    DTAG_UNROLL
    for (int k = 0; k < 2 * steps; ++k) wgmma_bf16<kWidth, false>(sum, x[k], first(), kWidth, k % steps, k > 0);
    wgmma_end(sum);
  }
  DTAG_MEMBER void first_product(float (&sum)[kWidth / 2]) const {
    switch (input_steps()) {
      case 1: return first_product_of<1>(sum);
      case 2: return first_product_of<2>(sum);
      case 3: return first_product_of<3>(sum);
      default: return first_product_of<4>(sum);
    }
  }

  // ---- What the members' blocks tell each other: [action_dim + 1][64] numbers.
  DTAG_MEMBER void send(int number, int row, float x) const {
    for (int to = 0; to < cluster_size(); ++to) exchange_.send(to, number * kRows + row, x);
  }
  DTAG_MEMBER void send_q(float (&q)[2]) const {
    DTAG_UNROLL
    for (int half = 0; half < 2; ++half) {
      q[half] += shuffle_xor(q[half], 1);
      q[half] += shuffle_xor(q[half], 2);
      if (lane_index() % 4 == 0) send(dims_, warp_row() + lane_index() / 4 + 8 * half, q[half] + *numbers(member_.head_bias));
    }
  }
  // Dimensions from..from + 15 of the action, from the gradient of the first layer's sums; zeros without one.
  DTAG_MEMBER void action_gradient(const uint32_t (&x)[kSteps][4], int from, bool with_gradient) const {
    float sum[2][2][4] = {};  // [k % 2][dimensions 0..8 or 8..16]: two chains
    const bool both = dims_ - from > 8;
    if (with_gradient) {
      const Shared<const uint16_t> mine = first() + swizzled(lane_index() % 16, from + lane_index() / 16 * 8);
      DTAG_UNROLL
      for (int k = 0; k < kSteps; ++k) {
        uint32_t w[4];
        load_matrix_trans(w, mine + 16 * k * 64);
        const uint32_t low[2] = {w[0], w[1]}, high[2] = {w[2], w[3]};
        mma_bf16(sum[k % 2][0], x[k], low);
        if (both) mma_bf16(sum[k % 2][1], x[k], high);
      }
    }
    DTAG_UNROLL
    for (int half = 0; half < 2; ++half) {
      DTAG_UNROLL
      for (int j = 0; j < 4; ++j) {
        const int dim = from + half * 8 + lane_index() % 4 * 2 + j % 2;
        if (dim < dims_) send(dim, warp_row() + lane_index() / 4 + j / 2 * 8, sum[0][half][j] + sum[1][half][j]);
      }
    }
  }

  DTAG_MEMBER void take_result() const {
    const int r = OneWarpgroup::thread();
    const Reduce reduce = p_.settings.reduce;
    const bool mean = reduce == Reduce::mean;
    const float share = 1.f / float(cluster_size());
    exchange_.wait();
    float q = 0.f;
    int taken = 0;
    for (int e = 0; e < cluster_size(); ++e)
      if (join_q(reduce, e, share, exchange_.received(e, dims_ * kRows + r), q)) taken = e;
    shared_part<float>(g_.walk.q, kRows)[r] = q;
    for (int k = 0; k < dims_; ++k) {
      float gradient = exchange_.received(taken, k * kRows + r);
      if (mean) {
        gradient *= share;
        for (int e = 1; e < cluster_size(); ++e) gradient = fma(exchange_.received(e, k * kRows + r), share, gradient);
      }
      shared_part<float>(g_.walk.grad, int64_t(dims_) * kRows)[k * kRows + r] = gradient;
    }
  }

  const HopperParams& p_;
  const HopperMemory& m_;
  const HopperGroup& g_;
  const int dims_;
  const HopperMember& member_;
  MeetInCluster::Exchange exchange_;
  Slopes<Shape> slopes_;
};

template <class Shape>
DTAG_KERNEL(cuda::kHopperGroups * kWarpgroup)
hopper_kernel(const DTAG_GRID_CONSTANT HopperParams params) {
  HopperKernel<Shape>(params).run();
}

}  // namespace dtag::gpu
