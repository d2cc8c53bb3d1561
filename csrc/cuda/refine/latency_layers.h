// The latency kernel's layers: forward to the terms of Q, backward to this block's share of dQ/da.
#pragma once
#include "cuda/refine/latency_norm.h"

namespace dtag::gpu {

template <class Block>
class LatencyLayers {
 public:
  using Shape = typename Block::Shape;
  static constexpr int kWidth = Shape::kWidth, kSlice = Shape::kSlice, kDepth = Shape::kDepth;

  DTAG_MEMBER explicit LatencyLayers(const Block& block)
      : b_(block), norm_(block), third_(block.exchange_of_member(cuda::kThirdLayer)) {}

  // Once per launch.
  DTAG_MEMBER void load_weights() {
    const Shared<float> weights = b_.first_weights();
    for (int at = thread_index(); at < b_.dims * kWidth; at += kLatencyThreads)
      weights[at] = b_.numbers(b_.member.action)[at];
    const int64_t mine = int64_t(b_.slice) * kSlice;
    second_.load(b_.numbers(b_.member.second) + mine * kWidth, b_.m.rest);
    second_bias_ = b_.numbers(b_.member.bias[1])[mine + b_.my_row()];
    if constexpr (kDepth == 3)
      third_matrix_.load(b_.numbers(b_.member.third) + mine * kWidth, b_.m.rest + uint32_t(Shape::kRestFloats) * 4);
    else
      last_weight_ = b_.numbers(b_.member.last)[mine + b_.my_row()];
    if (b_.slice == 0 && thread_index() == 0) last_bias_ = *b_.numbers(b_.member.last_bias);  // one of a member tells it
  }
  // One thread, as Exchange::init.
  DTAG_MEMBER void init() const {
    if (b_.p.norm_second) norm_.init();
    if constexpr (kDepth == 3) third_.init();
  }

  // Once per state: `state(r, s)` is number s of the state of row r.
  template <class State>
  DTAG_MEMBER void fold_state(State state) const {
    for (int r = 0; r < b_.rows; ++r)
      b_.each_unit([&](int u) DTAG_LAMBDA {
        float sum = b_.numbers(b_.member.bias[0])[u];
        for (int s = 0; s < b_.p.program.state_dim; ++s)
          sum = fma(b_.numbers(b_.member.state)[int64_t(s) * kWidth + u], state(r, s), sum);
        b_.wide(b_.m.base, r)[u] = sum;
      });
  }

  // Up to the terms that Q is the sum of, which a barrier must follow when there is no backward pass.
  DTAG_MEMBER void forward(bool with_gradient) {
    first_layer();
    second_layer();
    if constexpr (kDepth == 3) third_layer(with_gradient);
  }

  // From the gradient of the second layer's activation (or of the third layer's sums) to that of the first layer's sums.
  DTAG_MEMBER void backward() {
    if constexpr (kDepth == 3)
      for (int r = 0; r < b_.rows; ++r) {
        const float g = third_matrix_.times(b_.wide(b_.m.value, r));
        if (b_.writes()) b_.in_slice(b_.m.slice, r)[b_.my_row()] = g * b_.in_slice(b_.m.slope_2, r)[b_.my_row()];
      }
    if (b_.has_norm(1)) norm_.backward();
    sync_warp();
    for (int r = 0; r < b_.rows; ++r) second_.transposed_times(b_.in_slice(b_.m.slice, r), b_.part(r, warp_index()));
    sync_block();
    for (int r = 0; r < b_.rows; ++r)
      b_.each_unit(
          [&](int u) DTAG_LAMBDA { b_.wide(b_.m.value, r)[u] = sum_of_parts(r, u) * b_.wide(b_.m.slope, r)[u]; });
    if (b_.has_norm(0)) norm_whole_backward(b_, 0, b_.m.value, b_.m.normal);
  }

  // sums(warp, r): the warp's shares of the gradient and, behind them, of Q.
  DTAG_MEMBER void result(bool with_gradient) const {
    const Shared<const float> weights = b_.first_weights();
    const int dims = b_.dims;
    for (int r = 0; r < b_.rows; ++r)
      for (int from = 0; from <= dims; from += 8) {
        float share[8] = {};
        b_.each_unit([&](int u) DTAG_LAMBDA {
          const float g = with_gradient ? float(b_.wide(b_.m.value, r)[u]) : 0.f;
          DTAG_UNROLL
          for (int j = 0; j < 8; ++j) {
            if (from + j < dims)
              share[j] = fma(g, weights[(from + j) * kWidth + u], share[j]);
            else if (from + j == dims && (kDepth == 3 || u < kSlice))
              share[j] += b_.wide(b_.m.q_terms, r)[u];
          }
        });
        DTAG_UNROLL
        for (int j = 0; j < 8; ++j)
          if (from + j == dims) share[j] += last_bias_;
        const float sum = transpose_reduce<8>(share);
        const int k = from + reduced_index<8>();
        if (reduced_first<8>() && k <= dims) b_.sums(warp_index(), r)[k] = sum;
      }
  }

 private:
  // Sum z of unit u of a layer that every block has whole: its activation, or z itself for the LayerNorm that comes first.
  DTAG_MEMBER void whole_done(int layer, int r, int u, float z, uint32_t slopes) const {
    if (b_.has_norm(layer)) {
      b_.wide(b_.m.value, r)[u] = z;
      return;
    }
    float v, s;
    b_.activate(layer, z, v, s);
    b_.wide(b_.m.value, r)[u] = v;
    b_.wide(slopes, r)[u] = s;
  }

  DTAG_MEMBER void first_layer() const {
    const Shared<const float> weights = b_.first_weights(), action = b_.actions();
    for (int r = 0; r < b_.rows; ++r)
      b_.each_unit([&](int u) DTAG_LAMBDA {
        float z = b_.wide(b_.m.base, r)[u];
        for (int k = 0; k < b_.dims; ++k) z = fma(weights[k * kWidth + u], action[k * cuda::kLatencyRows + r], z);
        whole_done(0, r, u, z, b_.m.slope);
      });
    if (b_.has_norm(0)) norm_whole(b_, 0, b_.m.value, b_.m.slope, b_.m.normal);
    sync_block();
  }

  DTAG_MEMBER void second_layer() {
    const bool norm = b_.has_norm(1);
    for (int r = 0; r < b_.rows; ++r) {
      const float z = second_.times(b_.wide(b_.m.value, r)) + second_bias_;
      if (!b_.writes()) continue;
      if (norm)
        b_.in_slice(b_.m.slice, r)[b_.my_row()] = z;
      else
        second_done(r, z);
    }
    if (norm) norm_.forward([&](int row, float z) DTAG_LAMBDA { second_done(row, z); });
  }

  // The input of the second layer's activation is known, in the lane that writes: what follows from it.
  DTAG_MEMBER void second_done(int row, float z) const {
    float v, s;
    b_.activate(1, z, v, s);
    const int j = b_.my_row();
    if constexpr (kDepth == 3) {
      b_.in_slice(b_.m.slice, row)[j] = v;
      b_.in_slice(b_.m.slope_2, row)[j] = s;
    } else {
      b_.wide(b_.m.q_terms, row)[j] = last_weight_ * v;
      b_.in_slice(b_.m.slice, row)[j] = last_weight_ * s;
    }
  }

  // The third layer, and the gradient of its sums in place of the first layer's values.
  DTAG_MEMBER void third_layer(bool with_gradient) {
    sync_warp();  // a warp's rows of the slice are all that it reads
    for (int r = 0; r < b_.rows; ++r)
      third_matrix_.transposed_times(b_.in_slice(b_.m.slice, r), b_.part(r, warp_index()));
    if (thread_index() == 0) third_.expect();
    sync_block();
    for (int r = 0; r < b_.rows; ++r)
      b_.each_unit([&](int u) DTAG_LAMBDA {
        const float sum = sum_of_parts(r, u);
        for (int s = 0; s < b_.p.program.slices; ++s) third_.send(s, r * kWidth + u, sum);
      });
    third_.wait();
    for (int r = 0; r < b_.rows; ++r)
      b_.each_unit([&](int u) DTAG_LAMBDA {
        float z = b_.numbers(b_.member.bias[2])[u];
        for (int s = 0; s < b_.p.program.slices; ++s) z += third_.received(s, r * kWidth + u);
        whole_done(2, r, u, z, b_.m.slope_3);
      });
    third_.next();
    if (b_.has_norm(2)) norm_whole(b_, 2, b_.m.value, b_.m.slope_3, b_.m.normal_3);
    for (int r = 0; r < b_.rows; ++r)
      b_.each_unit([&](int u) DTAG_LAMBDA {
        const float w = b_.numbers(b_.member.last)[u];
        b_.wide(b_.m.q_terms, r)[u] = b_.slice == 0 ? w * b_.wide(b_.m.value, r)[u] : 0.f;  // all blocks have it, one tells
        b_.wide(b_.m.value, r)[u] = w * b_.wide(b_.m.slope_3, r)[u];
      });
    if (with_gradient && b_.has_norm(2)) norm_whole_backward(b_, 2, b_.m.value, b_.m.normal_3);
    sync_block();
  }

  DTAG_MEMBER float sum_of_parts(int r, int u) const {
    float sum = b_.part(r, 0)[u];
    DTAG_UNROLL
    for (int w = 1; w < kLatencyWarps; ++w) sum += b_.part(r, w)[u];
    return sum;
  }

  const Block b_;
  SplitNorm<Block> norm_;
  typename Block::Exchange third_;
  Slice<Shape> second_, third_matrix_;
  float second_bias_ = 0.f, last_weight_ = 0.f, last_bias_ = 0.f;
};

}  // namespace dtag::gpu
