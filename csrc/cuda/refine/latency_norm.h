// LayerNorm in the latency kernel: of a layer that every block holds whole, and of the second one, whose rows are spread over
// the member's blocks. A warp sees to a row.
#pragma once
#include "cuda/refine/latency_block.h"

namespace dtag::gpu {

template <class Number>
DTAG_INLINE float row_mean(int width, Number number) {
  float sum = 0.f;
  for (int u = lane_index(); u < width; u += kWarp) sum += number(u);
  return sum_over_warp(sum) / float(width);
}

// z becomes the activation's output; `slope` and `normal` get its slope and what its input was before scale and shift.
template <class Block>
DTAG_INLINE void norm_whole(const Block& b, int layer, uint32_t z, uint32_t slope, uint32_t normal) {
  const LatencyOp& op = b.member.op[layer];
  sync_block();
  if (warp_index() < b.rows) {
    const int r = warp_index();
    const Shared<float> x = b.wide(z, r);
    const float mean = row_mean(op.width, [&](int u) DTAG_LAMBDA { return float(x[u]); });
    const float variance = row_mean(op.width, [&](int u) DTAG_LAMBDA {
      const float d = x[u] - mean;
      return d * d;
    });
    sync_warp();
    if (lane_index() == 0) {
      b.stats(layer, r)[0] = mean;
      b.stats(layer, r)[1] = 1.f / sqrt(variance + op.eps);
    }
  }
  sync_block();
  for (int r = 0; r < b.rows; ++r)
    b.each_unit([&](int u) DTAG_LAMBDA {
      const float n = (b.wide(z, r)[u] - b.stats(layer, r)[0]) * b.stats(layer, r)[1];
      float v, s;
      b.activate(layer, fma(n, b.numbers(op.scale)[u], b.numbers(op.shift)[u]), v, s);
      b.wide(normal, r)[u] = n;
      b.wide(z, r)[u] = v;
      b.wide(slope, r)[u] = s;
    });
}

// g: gradient of the activation's input, becomes that of z.
template <class Block>
DTAG_INLINE void norm_whole_backward(const Block& b, int layer, uint32_t g, uint32_t normal) {
  const LatencyOp& op = b.member.op[layer];
  for (int r = 0; r < b.rows; ++r)
    b.each_unit([&](int u) DTAG_LAMBDA { b.wide(g, r)[u] = b.wide(g, r)[u] * b.numbers(op.scale)[u]; });
  sync_block();
  if (warp_index() < b.rows) {
    const int r = warp_index();
    const Shared<float> x = b.wide(g, r), n = b.wide(normal, r);
    const float mean = row_mean(op.width, [&](int u) DTAG_LAMBDA { return float(x[u]); });
    const float slope = row_mean(op.width, [&](int u) DTAG_LAMBDA { return x[u] * n[u]; });
    if (lane_index() == 0) {
      b.sums(0, r)[0] = mean;
      b.sums(0, r)[1] = slope;
    }
  }
  sync_block();
  for (int r = 0; r < b.rows; ++r)
    b.each_unit([&](int u) DTAG_LAMBDA {
      const float d = b.wide(g, r)[u] - b.sums(0, r)[0] - b.wide(normal, r)[u] * b.sums(0, r)[1];
      b.wide(g, r)[u] = u < op.width ? d * b.stats(layer, r)[1] : 0.f;
    });
  sync_block();
}

// Of the second layer; its blocks exchange two sums of each row forward, and two backward.
template <class Block>
class SplitNorm {
 public:
  using Exchange = typename Block::Exchange;

  DTAG_MEMBER explicit SplitNorm(const Block& block)
      : b_(block), op_(block.member.op[1]), forward_(block.exchange_of_member(cuda::kNormForward)),
        backward_(block.exchange_of_member(cuda::kNormBackward)) {}

  // One thread, as Exchange::init.
  DTAG_MEMBER void init() const {
    forward_.init();
    backward_.init();
  }

  // The slice holds the layer's sums. done(row, z): the activation's input in the lanes that write.
  template <class Done>
  DTAG_MEMBER void forward(Done done) {
    const int r = warp_index(), count = b_.real_rows(b_.slice), slices = b_.p.program.slices;
    sync_block();
    if (thread_index() == 0) forward_.expect();
    if (r < b_.rows) {
      // Sums of squares about the block's own mean: they lose no digits to a mean far from zero.
      const Shared<float> z = b_.in_slice(b_.m.slice, r);
      float sum = 0.f, squares = 0.f;
      for (int j = lane_index(); j < count; j += kWarp) sum += z[j];
      sum = sum_over_warp(sum);
      const float mean = count ? sum / float(count) : 0.f;
      for (int j = lane_index(); j < count; j += kWarp) {
        const float d = z[j] - mean;
        squares = fma(d, d, squares);
      }
      send_pair(forward_, r, sum, sum_over_warp(squares));
    }
    forward_.wait();
    for (int row = 0; row < b_.rows; ++row) {
      float sum = 0.f, squares = 0.f;
      for (int s = 0; s < slices; ++s) sum += forward_.received(s, row * 2);
      const float mean = sum / float(op_.width);
      for (int s = 0; s < slices; ++s) {
        const int n = b_.real_rows(s);
        const float d = n ? forward_.received(s, row * 2) / float(n) - mean : 0.f;
        squares += fma(float(n) * d, d, forward_.received(s, row * 2 + 1));
      }
      const float rstd = 1.f / sqrt(squares / float(op_.width) + op_.eps);
      if (b_.writes()) {
        const int j = b_.my_row();
        const float n = (b_.in_slice(b_.m.slice, row)[j] - mean) * rstd;
        const bool real = j < b_.real_rows(b_.slice);
        b_.in_slice(b_.m.normal_2, row)[j] = real ? n : 0.f;
        const int at = b_.slice * Block::kSlice + j;
        done(row, real ? fma(n, b_.numbers(op_.scale)[at], b_.numbers(op_.shift)[at]) : 0.f);
      }
      if (thread_index() == 0) b_.stats(1, row)[1] = rstd;
    }
    forward_.next();
  }

  // The slice holds the gradient of the activation's input; it becomes that of the sums.
  DTAG_MEMBER void backward() {
    const int r = warp_index(), count = b_.real_rows(b_.slice);
    for (int row = 0; row < b_.rows; ++row)
      if (b_.writes()) {
        const int j = b_.my_row();
        b_.in_slice(b_.m.slice, row)[j] =
            j < count ? b_.in_slice(b_.m.slice, row)[j] * b_.numbers(op_.scale)[b_.slice * Block::kSlice + j] : 0.f;
      }
    sync_block();
    if (thread_index() == 0) backward_.expect();
    if (r < b_.rows) {
      const Shared<float> g = b_.in_slice(b_.m.slice, r), n = b_.in_slice(b_.m.normal_2, r);
      float sum = 0.f, dot = 0.f;
      for (int j = lane_index(); j < count; j += kWarp) {
        sum += g[j];
        dot = fma(g[j], n[j], dot);
      }
      sum = sum_over_warp(sum);
      send_pair(backward_, r, sum, sum_over_warp(dot));
    }
    backward_.wait();
    for (int row = 0; row < b_.rows; ++row) {
      float sum = 0.f, dot = 0.f;
      for (int s = 0; s < b_.p.program.slices; ++s) {
        sum += backward_.received(s, row * 2);
        dot += backward_.received(s, row * 2 + 1);
      }
      if (b_.writes()) {
        const int j = b_.my_row();
        const float d = b_.in_slice(b_.m.slice, row)[j] - sum / float(op_.width) -
                        b_.in_slice(b_.m.normal_2, row)[j] * (dot / float(op_.width));
        b_.in_slice(b_.m.slice, row)[j] = j < count ? d * b_.stats(1, row)[1] : 0.f;
      }
    }
    backward_.next();
  }

 private:
  // Two numbers of row r to all blocks of the member. The warp has read the row by then: whoever receives may overwrite it.
  DTAG_MEMBER void send_pair(const Exchange& exchange, int r, float x, float y) const {
    sync_warp();
    if (lane_index() >= b_.p.program.slices) return;
    exchange.send(lane_index(), r * 2, x);
    exchange.send(lane_index(), r * 2 + 1, y);
  }

  const Block b_;
  const LatencyOp& op_;
  Exchange forward_, backward_;
};

}  // namespace dtag::gpu
