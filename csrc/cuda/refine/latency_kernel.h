// Few rows, as soon as possible: a cluster of blocks carries them, every weight stays where it is used. Each member's hidden
// matrices are split by rows over `slices` blocks. A block computes the first layer whole, its slice of the second, its share
// of Q and, since all that follows is linear, its share of the action's gradient: one exchange of action_dim + 1 numbers ends
// an iteration, after which every block walks the rows itself, with the same bits. A third hidden layer takes one exchange
// more (the second matrix split by rows, the third by columns), LayerNorm after the second layer two small ones.
#pragma once
#include "cuda/refine/lane_walk.h"
#include "cuda/refine/slice.h"
#include "cuda/refine/tile_rows.h"

namespace dtag::gpu {

using cuda::LatencyMember;
using cuda::LatencyMemory;
using cuda::LatencyOp;
using cuda::LatencyParams;

// TileRows' idea of a tile: what one cluster carries.
struct LatencyTile {
  static constexpr int kRows = cuda::kLatencyRows;
};

DTAG_INLINE void activate_one(const LatencyOp& op, float z, float& value, float& slope) {
  switch (op.kind) {
    case Activation::identity: return activate<Activation::identity, float>(z, op.p0, op.p1, value, slope);
    case Activation::relu: return activate<Activation::relu, float>(z, op.p0, op.p1, value, slope);
    case Activation::leaky_relu: return activate<Activation::leaky_relu, float>(z, op.p0, op.p1, value, slope);
    case Activation::elu: return activate<Activation::elu, float>(z, op.p0, op.p1, value, slope);
    case Activation::gelu: return activate<Activation::gelu, float>(z, op.p0, op.p1, value, slope);
    case Activation::gelu_tanh: return activate<Activation::gelu_tanh, float>(z, op.p0, op.p1, value, slope);
    case Activation::silu: return activate<Activation::silu, float>(z, op.p0, op.p1, value, slope);
    case Activation::mish: return activate<Activation::mish, float>(z, op.p0, op.p1, value, slope);
    case Activation::tanh: return activate<Activation::tanh, float>(z, op.p0, op.p1, value, slope);
    case Activation::softplus: return activate<Activation::softplus, float>(z, op.p0, op.p1, value, slope);
  }
}

template <class Shape>
class LatencyKernel {
 public:
  static constexpr int kWidth = Shape::kWidth, kRows = Shape::kRows, kSlice = Shape::kSlice, kDepth = Shape::kDepth;
  static constexpr int kUnits = kWidth > kLatencyThreads ? kWidth / kLatencyThreads : 1;  // of a whole layer, per thread
  using Rows = TileRows<LatencyTile, LatencyMemory>;

  DTAG_MEMBER explicit LatencyKernel(const LatencyParams& params)
      : p_(params), m_(params.memory), rows_(params.rows), dims_(params.program.action_dim),
        slice_(cluster_rank() % params.program.slices), member_(params.program.members[cluster_rank() / params.program.slices]),
        result_(exchange(cuda::kResult, 0, cluster_size())), norm_forward_(exchange(cuda::kNormForward)),
        norm_backward_(exchange(cuda::kNormBackward)), third_(exchange(cuda::kThirdLayer)),
        first_to_(thread_index() / m_.count[cuda::kResult]), first_c_(thread_index() % m_.count[cuda::kResult]) {}

  DTAG_MEMBER void run() {
    load_weights();
    const Rows rows(p_.call, p_.settings, m_, dims_, rows_);
    const int64_t clusters = block_count() / cluster_size();
    for (int64_t tile = block_index() / cluster_size(); tile < rows.tile_count(); tile += clusters) {
      const int64_t state = tile * rows.states_each();
      for (int first = 0; first < p_.call.candidates; first += rows.candidates_each()) {
        rows.begin(state, first);
        if (first == 0) fold_state(rows, state);
        const int iterates = walk(rows, state, first);
        if (cluster_rank() == 0) rows.finish(state, first, iterates);
      }
    }
    sync_cluster();  // nobody ends while others may still send to it
  }

 private:
  // ---- Places.
  DTAG_MEMBER Exchange exchange(cuda::LatencyInbox which, int first, int senders) const {
    return {m_.inbox[which], m_.barrier[which], first, senders, m_.count[which]};
  }
  DTAG_MEMBER Exchange exchange(cuda::LatencyInbox which) const {
    return exchange(which, cluster_rank() - slice_, p_.program.slices);
  }
  DTAG_MEMBER const float* numbers(int place) const { return p_.program.numbers + place; }
  DTAG_MEMBER Shared<float> wide(uint32_t offset, int row) const {
    return shared_part<float>(offset, int64_t(rows_) * kWidth) + row * kWidth;
  }
  DTAG_MEMBER Shared<float> in_slice(uint32_t offset, int row) const {
    return shared_part<float>(offset, int64_t(rows_) * kSlice) + row * kSlice;
  }
  DTAG_MEMBER Shared<float> part(int row, int warp) const {
    return shared_part<float>(m_.part, int64_t(rows_) * kLatencyWarps * kWidth) + (row * kLatencyWarps + warp) * kWidth;
  }
  DTAG_MEMBER Shared<float> sums(int warp, int row) const {
    return shared_part<float>(m_.sums, int64_t(kLatencyWarps) * rows_ * 32) + (warp * rows_ + row) * 32;
  }
  DTAG_MEMBER Shared<float> stats(int layer, int row) const {
    return shared_part<float>(m_.stats, 3 * cuda::kLatencyRows * 2) + (layer * cuda::kLatencyRows + row) * 2;
  }
  // The row of the slice that this lane sees to; several lanes see to the same one, the first of them writes.
  DTAG_MEMBER int my_row() const { return warp_index() * kRows + reduced_index<kRows>(); }
  DTAG_MEMBER bool writes() const { return reduced_first<kRows>(); }
  // How many of a slice's rows are no padding.
  DTAG_MEMBER int real_rows(int slice) const {
    const int left = member_.op[1].width - slice * kSlice;
    return left < 0 ? 0 : left < kSlice ? left : kSlice;
  }
  // Calls f(u) for the units of a whole layer that belong to this thread.
  template <class Body>
  DTAG_MEMBER void each_unit(Body f) const {
    DTAG_UNROLL
    for (int n = 0; n < kUnits; ++n) {
      const int u = thread_index() + n * kLatencyThreads;
      if (kWidth >= kLatencyThreads || u < kWidth) f(u);
    }
  }

  // ---- Once per launch, once per state.
  DTAG_MEMBER void load_weights() {
    const Shared<float> weights = shared_part<float>(m_.weights, int64_t(dims_) * kWidth);
    for (int at = thread_index(); at < dims_ * kWidth; at += kLatencyThreads) weights[at] = numbers(member_.action)[at];
    const int64_t mine = int64_t(slice_) * kSlice;
    second_.load(numbers(member_.second) + mine * kWidth, m_.rest);
    second_bias_ = numbers(member_.bias[1])[mine + my_row()];
    if constexpr (kDepth == 3)
      third_matrix_.load(numbers(member_.third) + mine * kWidth, m_.rest + uint32_t(Shape::kRestFloats) * 4);
    else
      last_weight_ = numbers(member_.last)[mine + my_row()];
    if (slice_ == 0 && thread_index() == 0) last_bias_ = *numbers(member_.last_bias);  // one thread of a member tells it
    if (thread_index() == 0) {
      result_.init();
      if (p_.norm_second) {
        norm_forward_.init();
        norm_backward_.init();
      }
      if constexpr (kDepth == 3) third_.init();
      mbarrier_init_fence();
    }
    sync_cluster();
  }

  DTAG_MEMBER void fold_state(const Rows& rows, int64_t state) const {
    for (int r = 0; r < rows_; ++r)
      each_unit([&](int u) DTAG_LAMBDA {
        float sum = numbers(member_.bias[0])[u];
        for (int s = 0; s < p_.program.state_dim; ++s)
          sum = fma(numbers(member_.state)[int64_t(s) * kWidth + u], rows.state(state, r, s), sum);
        wide(m_.base, r)[u] = sum;
      });
  }

  // ---- LayerNorm of a layer that every block holds whole. A warp sees to a row.
  template <class Number>
  DTAG_MEMBER float row_mean(int width, Number number) const {
    float sum = 0.f;
    for (int u = lane_index(); u < width; u += kWarp) sum += number(u);
    return LanesOfRow::sum(sum) / float(width);
  }

  // z in place of which `value` comes: normalised, activated.
  DTAG_MEMBER void norm_whole(int layer, uint32_t z, uint32_t slope, uint32_t normal) const {
    const LatencyOp& op = member_.op[layer];
    sync_block();
    if (warp_index() < rows_) {
      const int r = warp_index();
      const Shared<float> x = wide(z, r);
      const float mean = row_mean(op.width, [&](int u) DTAG_LAMBDA { return float(x[u]); });
      const float variance = row_mean(op.width, [&](int u) DTAG_LAMBDA {
        const float d = x[u] - mean;
        return d * d;
      });
      sync_warp();
      if (lane_index() == 0) {
        stats(layer, r)[0] = mean;
        stats(layer, r)[1] = 1.f / sqrt(variance + op.eps);
      }
    }
    sync_block();
    for (int r = 0; r < rows_; ++r)
      each_unit([&](int u) DTAG_LAMBDA {
        const float n = (wide(z, r)[u] - stats(layer, r)[0]) * stats(layer, r)[1];
        float v, s;
        activate_one(op, fma(n, numbers(op.scale)[u], numbers(op.shift)[u]), v, s);
        wide(normal, r)[u] = n;
        wide(z, r)[u] = v;
        wide(slope, r)[u] = s;
      });
  }

  // g: gradient of the activation's input, becomes that of z. `spare`: one number per unit and row.
  DTAG_MEMBER void norm_whole_backward(int layer, uint32_t g, uint32_t normal) const {
    const LatencyOp& op = member_.op[layer];
    for (int r = 0; r < rows_; ++r)
      each_unit([&](int u) DTAG_LAMBDA { wide(g, r)[u] = wide(g, r)[u] * numbers(op.scale)[u]; });
    sync_block();
    float mean = 0.f, slope = 0.f;
    if (warp_index() < rows_) {
      const Shared<float> x = wide(g, warp_index()), n = wide(normal, warp_index());
      mean = row_mean(op.width, [&](int u) DTAG_LAMBDA { return float(x[u]); });
      slope = row_mean(op.width, [&](int u) DTAG_LAMBDA { return x[u] * n[u]; });
      if (lane_index() == 0) {
        sums(0, warp_index())[0] = mean;
        sums(0, warp_index())[1] = slope;
      }
    }
    sync_block();
    for (int r = 0; r < rows_; ++r)
      each_unit([&](int u) DTAG_LAMBDA {
        const float d = wide(g, r)[u] - sums(0, r)[0] - wide(normal, r)[u] * sums(0, r)[1];
        wide(g, r)[u] = u < op.width ? d * stats(layer, r)[1] : 0.f;
      });
    sync_block();
  }

  // ---- LayerNorm of the second layer, whose rows are spread over the member's blocks.

  // Mean and 1 / standard deviation of a row, from every block's sum and sum of squares about its own mean.
  DTAG_MEMBER void norm_second() {
    const LatencyOp& op = member_.op[1];
    const int r = warp_index(), count = real_rows(slice_);
    sync_block();
    if (thread_index() == 0) norm_forward_.expect();
    if (r < rows_) {
      const Shared<float> z = in_slice(m_.slice, r);
      float sum = 0.f, squares = 0.f;
      for (int j = lane_index(); j < count; j += kWarp) sum += z[j];
      sum = LanesOfRow::sum(sum);
      const float mean = count ? sum / float(count) : 0.f;
      for (int j = lane_index(); j < count; j += kWarp) {
        const float d = z[j] - mean;
        squares = fma(d, d, squares);
      }
      squares = LanesOfRow::sum(squares);
      sync_warp();  // all lanes have read; whoever receives may overwrite
      if (lane_index() < p_.program.slices) {
        norm_forward_.send(lane_index(), r * 2, sum);
        norm_forward_.send(lane_index(), r * 2 + 1, squares);
      }
    }
    norm_forward_.wait();
    for (int row = 0; row < rows_; ++row) {
      float sum = 0.f, squares = 0.f;
      for (int s = 0; s < p_.program.slices; ++s) sum += norm_forward_.received(s, row * 2);
      const float mean = sum / float(op.width);
      for (int s = 0; s < p_.program.slices; ++s) {
        const int n = real_rows(s);
        const float d = n ? norm_forward_.received(s, row * 2) / float(n) - mean : 0.f;
        squares += fma(float(n) * d, d, norm_forward_.received(s, row * 2 + 1));
      }
      const float rstd = 1.f / sqrt(squares / float(op.width) + op.eps);
      if (writes()) {
        const int j = my_row();
        const float n = (in_slice(m_.slice, row)[j] - mean) * rstd;
        const bool real = j < real_rows(slice_);
        in_slice(m_.normal_2, row)[j] = real ? n : 0.f;
        const int at = slice_ * kSlice + j;
        second_done(row, real ? fma(n, numbers(op.scale)[at], numbers(op.shift)[at]) : 0.f);
      }
      if (thread_index() == 0) stats(1, row)[1] = rstd;
    }
    norm_forward_.next();
  }

  // The slice holds the gradient of the activation's input; it becomes that of the sums.
  DTAG_MEMBER void norm_second_backward() {
    const LatencyOp& op = member_.op[1];
    const int r = warp_index(), count = real_rows(slice_);
    for (int row = 0; row < rows_; ++row)
      if (writes()) {
        const int j = my_row();
        in_slice(m_.slice, row)[j] = j < count ? in_slice(m_.slice, row)[j] * numbers(op.scale)[slice_ * kSlice + j] : 0.f;
      }
    sync_block();
    if (thread_index() == 0) norm_backward_.expect();
    if (r < rows_) {
      const Shared<float> g = in_slice(m_.slice, r), n = in_slice(m_.normal_2, r);
      float sum = 0.f, dot = 0.f;
      for (int j = lane_index(); j < count; j += kWarp) {
        sum += g[j];
        dot = fma(g[j], n[j], dot);
      }
      sum = LanesOfRow::sum(sum);
      dot = LanesOfRow::sum(dot);
      sync_warp();
      if (lane_index() < p_.program.slices) {
        norm_backward_.send(lane_index(), r * 2, sum);
        norm_backward_.send(lane_index(), r * 2 + 1, dot);
      }
    }
    norm_backward_.wait();
    for (int row = 0; row < rows_; ++row) {
      float sum = 0.f, dot = 0.f;
      for (int s = 0; s < p_.program.slices; ++s) {
        sum += norm_backward_.received(s, row * 2);
        dot += norm_backward_.received(s, row * 2 + 1);
      }
      if (writes()) {
        const int j = my_row();
        const float d = in_slice(m_.slice, row)[j] - sum / float(op.width) -
                        in_slice(m_.normal_2, row)[j] * (dot / float(op.width));
        in_slice(m_.slice, row)[j] = j < count ? d * stats(1, row)[1] : 0.f;
      }
    }
    norm_backward_.next();
  }

  // ---- Forward.

  DTAG_MEMBER void first_layer() const {
    const LatencyOp& op = member_.op[0];
    const Shared<const float> weights = shared_part<float>(m_.weights, int64_t(dims_) * kWidth);
    const Shared<const float> action = shared_part<float>(m_.action, int64_t(dims_) * cuda::kLatencyRows);
    for (int r = 0; r < rows_; ++r)
      each_unit([&](int u) DTAG_LAMBDA {
        float z = wide(m_.base, r)[u];
        for (int k = 0; k < dims_; ++k) z = fma(weights[k * kWidth + u], action[k * cuda::kLatencyRows + r], z);
        if (op.norm) {
          wide(m_.value, r)[u] = z;
          return;
        }
        float v, s;
        activate_one(op, z, v, s);
        wide(m_.value, r)[u] = v;
        wide(m_.slope, r)[u] = s;
      });
    if (op.norm) norm_whole(0, m_.value, m_.slope, m_.normal);
    sync_block();
  }

  // The input of the second layer's activation is known, in the lane that writes: what follows from it.
  DTAG_MEMBER void second_done(int row, float z) const {
    float v, s;
    activate_one(member_.op[1], z, v, s);
    const int j = my_row();
    if constexpr (kDepth == 3) {
      in_slice(m_.slice, row)[j] = v;
      in_slice(m_.slope_2, row)[j] = s;
    } else {
      wide(m_.q_terms, row)[j] = last_weight_ * v;
      in_slice(m_.slice, row)[j] = last_weight_ * s;
    }
  }

  DTAG_MEMBER void second_layer() {
    for (int r = 0; r < rows_; ++r) {
      const float z = second_.times(wide(m_.value, r)) + second_bias_;
      if (!writes()) continue;
      if (member_.op[1].norm)
        in_slice(m_.slice, r)[my_row()] = z;
      else
        second_done(r, z);
    }
    if (member_.op[1].norm) norm_second();
  }

  // The third layer, and the gradient of its sums in place of the first layer's values.
  DTAG_MEMBER void third_layer(bool with_gradient) {
    const LatencyOp& op = member_.op[2];
    sync_warp();  // a warp's rows of the slice are all that it reads
    for (int r = 0; r < rows_; ++r) third_matrix_.transposed_times(in_slice(m_.slice, r), part(r, warp_index()));
    if (thread_index() == 0) third_.expect();
    sync_block();
    for (int r = 0; r < rows_; ++r)
      each_unit([&](int u) DTAG_LAMBDA {
        const float sum = sum_of_parts(r, u);
        for (int s = 0; s < p_.program.slices; ++s) third_.send(s, r * kWidth + u, sum);
      });
    third_.wait();
    for (int r = 0; r < rows_; ++r)
      each_unit([&](int u) DTAG_LAMBDA {
        float z = numbers(member_.bias[2])[u];
        for (int s = 0; s < p_.program.slices; ++s) z += third_.received(s, r * kWidth + u);
        if (op.norm) {
          wide(m_.value, r)[u] = z;
          return;
        }
        float v, s;
        activate_one(op, z, v, s);
        wide(m_.value, r)[u] = v;
        wide(m_.slope_3, r)[u] = s;
      });
    third_.next();
    if (op.norm) norm_whole(2, m_.value, m_.slope_3, m_.normal_3);
    for (int r = 0; r < rows_; ++r)
      each_unit([&](int u) DTAG_LAMBDA {
        const float w = numbers(member_.last)[u];
        wide(m_.q_terms, r)[u] = slice_ == 0 ? w * wide(m_.value, r)[u] : 0.f;  // all blocks have it, one tells
        wide(m_.value, r)[u] = w * wide(m_.slope_3, r)[u];
      });
    if (with_gradient && op.norm) norm_whole_backward(2, m_.value, m_.normal_3);
    sync_block();
  }

  // ---- Backward: this block's share of dQ/da, from the gradient of the second layer's activation.

  DTAG_MEMBER float sum_of_parts(int r, int u) const {
    float sum = part(r, 0)[u];
    DTAG_UNROLL
    for (int w = 1; w < kLatencyWarps; ++w) sum += part(r, w)[u];
    return sum;
  }

  DTAG_MEMBER void backward() {
    if constexpr (kDepth == 3)
      for (int r = 0; r < rows_; ++r) {
        const float g = third_matrix_.times(wide(m_.value, r));
        if (writes()) in_slice(m_.slice, r)[my_row()] = g * in_slice(m_.slope_2, r)[my_row()];
      }
    if (member_.op[1].norm) norm_second_backward();
    sync_warp();
    for (int r = 0; r < rows_; ++r) second_.transposed_times(in_slice(m_.slice, r), part(r, warp_index()));
    sync_block();
    for (int r = 0; r < rows_; ++r)
      each_unit([&](int u) DTAG_LAMBDA { wide(m_.value, r)[u] = sum_of_parts(r, u) * wide(m_.slope, r)[u]; });
    if (member_.op[0].norm) norm_whole_backward(0, m_.value, m_.normal);
  }

  // The block's shares of gradient and Q to all blocks of the cluster.
  DTAG_MEMBER void send_result(bool with_gradient) {
    const Shared<const float> weights = shared_part<float>(m_.weights, int64_t(dims_) * kWidth);
    for (int r = 0; r < rows_; ++r)
      for (int from = 0; from <= dims_; from += 8) {
        float share[8] = {};
        each_unit([&](int u) DTAG_LAMBDA {
          const float g = with_gradient ? float(wide(m_.value, r)[u]) : 0.f;
          DTAG_UNROLL
          for (int j = 0; j < 8; ++j) {
            if (from + j < dims_)
              share[j] = fma(g, weights[(from + j) * kWidth + u], share[j]);
            else if (from + j == dims_ && (kDepth == 3 || u < kSlice))
              share[j] += wide(m_.q_terms, r)[u];
          }
        });
        DTAG_UNROLL
        for (int j = 0; j < 8; ++j)
          if (from + j == dims_) share[j] += last_bias_;
        const float sum = transpose_reduce<8>(share);
        if (reduced_first<8>() && from + reduced_index<8>() <= dims_) sums(warp_index(), r)[from + reduced_index<8>()] = sum;
      }
    if (thread_index() == 0) result_.expect();
    sync_block();
    for (int at = thread_index(), to = first_to_, c = first_c_; at < m_.count[cuda::kResult] * cluster_size();) {
      const int r = c / (dims_ + 1), k = c % (dims_ + 1);
      float sum = sums(0, r)[k];
      for (int w = 1; w < kLatencyWarps; ++w) sum += sums(w, r)[k];
      result_.send(to, c, sum);
      at += kLatencyThreads;
      if (at >= m_.count[cuda::kResult] * cluster_size()) break;
      to = at / m_.count[cuda::kResult];
      c = at % m_.count[cuda::kResult];
    }
  }

  // ---- The walk.

  // What the other warps must know of the rows.
  DTAG_MEMBER void publish(const LaneWalk& w) const {
    const int r = warp_index();
    if (lane_index() < dims_)
      shared_part<float>(m_.action, int64_t(dims_) * cuda::kLatencyRows)[lane_index() * cuda::kLatencyRows + r] = w.action;
    if (lane_index() == 0) shared_part<int32_t>(m_.left, cuda::kLatencyRows)[r] = w.alive ? 1 + w.steps : 0;
  }
  // The greatest number of steps among the rows that still walk, -1 when none does.
  DTAG_MEMBER int most_steps() const {
    const Shared<const int32_t> left = shared_part<int32_t>(m_.left, cuda::kLatencyRows);
    int most = 0;
    for (int r = 0; r < rows_; ++r) {
      const int steps = left[r];
      most = steps > most ? steps : most;
    }
    return most - 1;
  }

  // All iterates of the rows that rows.begin() read; returns how many there were.
  DTAG_MEMBER int walk(const Rows& rows, int64_t state, int first) {
    const bool walks = warp_index() < rows_, tells = walks && cluster_rank() == 0 && p_.call.trace_q;
    LaneWalk w;
    if (walks) {
      w.read(m_, p_.settings, dims_, warp_index());
      publish(w);
    }
    sync_block();
    Clock clock;
    int i = 0;
    for (bool more = true; more && most_steps() >= 0; ++i) {
      more = most_steps() > i;
      if (more || rows.last_q_needed()) {
        first_layer();
        second_layer();
        if constexpr (kDepth == 3) third_layer(more);
        if (more)
          backward();
        else
          sync_block();  // the terms of Q
        send_result(more);
        // Here it costs nothing: the blocks' numbers are under way.
        if (more && p_.settings.optimizer == Optimizer::adam && walks) clock.tick(p_.settings);
        if (walks) w.take_result(p_, result_, warp_index());
        result_.next();
      }
      if (walks) {
        const bool stood = w.alive != 0;
        walk_observe<float>(w.view(), p_.settings, i);
        if (tells) trace(rows.row(state, first, warp_index()), i, stood, more && w.alive != 0, w);
      }
      if (walks && more) {
        walk_step<float>(w.view(), p_.settings, clock, i);
        publish(w);
      }
      sync_block();
    }
    if (walks) w.write(m_, dims_, warp_index());
    sync_block();
    return i;
  }

  // Iterate i of the row at `at`: NaN where it had ended before, or where no gradient was needed.
  DTAG_MEMBER void trace(int64_t at, int i, bool stood, bool goes_on, const LaneWalk& w) const {
    if (at < 0) return;
    const int64_t place = i * p_.call.batch * p_.call.candidates + at;
    const float nan = bits_as<float>(0x7fc00000u);
    if (lane_index() == 0) p_.call.trace_q[place] = stood ? w.q : nan;
    if (lane_index() >= dims_) return;
    p_.call.trace_actions[place * dims_ + lane_index()] = stood ? w.action : nan;
    p_.call.trace_grad[place * dims_ + lane_index()] = goes_on ? w.grad : nan;
  }

  const LatencyParams& p_;
  const LatencyMemory& m_;
  const int rows_, dims_, slice_;
  const LatencyMember& member_;
  Exchange result_, norm_forward_, norm_backward_, third_;
  Slice<Shape> second_, third_matrix_;
  float second_bias_ = 0.f, last_weight_ = 0.f, last_bias_ = 0.f;
  const int first_to_, first_c_;  // what this thread sends first: to whom, which number
};

template <class Shape>
DTAG_KERNEL(cuda::kLatencyThreads)
latency_kernel(const DTAG_GRID_CONSTANT LatencyParams params) {
  LatencyKernel<Shape>(params).run();
}

}  // namespace dtag::gpu
