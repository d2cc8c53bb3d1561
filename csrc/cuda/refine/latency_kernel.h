// Few rows, as soon as possible: a group of blocks carries them, every weight stays where it is used. Each member's hidden
// matrices are split by rows over `slices` blocks. A block computes the first layer whole, its slice of the second, its share
// of Q and, since all that follows is linear, its share of the action's gradient: one exchange of action_dim + 1 numbers ends
// an iteration, after which every block walks the rows itself, with the same bits. A third hidden layer takes one exchange
// more (the second matrix split by rows, the third by columns), LayerNorm after the second layer two small ones.
#pragma once
#include "cuda/refine/lane_walk.h"
#include "cuda/refine/latency_layers.h"
#include "cuda/refine/tile_rows.h"

namespace dtag::gpu {

// TileRows' idea of a tile: what one group carries.
struct LatencyTile {
  static constexpr int kRows = cuda::kLatencyRows;
};

template <class Block>
class LatencyKernel {
 public:
  using Rows = TileRows<LatencyTile, LatencyMemory>;

  DTAG_MEMBER explicit LatencyKernel(const LatencyParams& params)
      : b_(params), p_(params), layers_(b_), result_(b_.exchange_of_all(cuda::kResult)),
        first_to_(thread_index() / b_.m.count[cuda::kResult]), first_c_(thread_index() % b_.m.count[cuda::kResult]) {}

  DTAG_MEMBER void run() {
    layers_.load_weights();
    if (thread_index() == 0) {
      result_.init();
      layers_.init();
    }
    b_.meet.begin();
    const Rows rows(p_.call, p_.settings, b_.m, b_.dims, b_.rows);
    for (int tile = b_.meet.group(); tile < p_.tiles; tile += b_.meet.groups()) {
      const int64_t state = int64_t(tile) * rows.states_each();
      for (int first = 0; first < p_.call.candidates; first += rows.candidates_each()) {
        rows.begin(state, first);
        if (first == 0) layers_.fold_state([&](int r, int s) DTAG_LAMBDA { return rows.state(state, r, s); });
        const int iterates = walk(rows, state, first);
        if (b_.meet.rank() == 0) rows.finish(state, first, iterates);
      }
    }
    b_.meet.end();
  }

 private:
  // The block's shares of gradient and Q to all blocks of the group.
  DTAG_MEMBER void send_result() {
    const int count = b_.m.count[cuda::kResult], all = count * b_.meet.size();
    if (thread_index() == 0) result_.expect();
    sync_block();
    for (int at = thread_index(), to = first_to_, c = first_c_; at < all;) {
      const int r = c / (b_.dims + 1), k = c % (b_.dims + 1);
      float sum = b_.sums(0, r)[k];
      for (int w = 1; w < kLatencyWarps; ++w) sum += b_.sums(w, r)[k];
      result_.send(to, c, sum);
      at += kLatencyThreads;
      if (at >= all) break;
      to = at / count;
      c = at % count;
    }
  }

  // What the other warps must know of the rows.
  DTAG_MEMBER void publish(const LaneWalk& w) const {
    const int r = warp_index();
    if (lane_index() < b_.dims) b_.actions()[lane_index() * cuda::kLatencyRows + r] = w.action;
    if (lane_index() == 0) shared_part<int32_t>(b_.m.left, cuda::kLatencyRows)[r] = w.alive ? 1 + w.steps : 0;
  }
  // The greatest number of steps among the rows that still walk, -1 when none does.
  DTAG_MEMBER int most_steps() const {
    const Shared<const int32_t> left = shared_part<int32_t>(b_.m.left, cuda::kLatencyRows);
    int most = 0;
    for (int r = 0; r < b_.rows; ++r) {
      const int steps = left[r];
      most = steps > most ? steps : most;
    }
    return most - 1;
  }

  // All iterates of the rows that rows.begin() read; returns how many there were.
  DTAG_MEMBER int walk(const Rows& rows, int64_t state, int first) {
    const bool walks = warp_index() < b_.rows, tells = walks && b_.meet.rank() == 0 && p_.call.trace_q;
    LaneWalk w;
    if (walks) {
      w.read(b_.m, p_.settings, p_.call, rows.row(state, first, warp_index()) / p_.call.candidates, b_.dims, warp_index());
      publish(w);
    }
    sync_block();
    Clock clock;
    int i = 0;
    for (bool more = true; more && most_steps() >= 0; ++i) {
      more = most_steps() > i;
      if (more || rows.last_q_needed()) {
        layers_.forward(more);
        if (more)
          layers_.backward();
        else
          sync_block();  // the terms of Q
        layers_.result(more);
        send_result();
        // Here it costs nothing: the blocks' numbers are under way.
        if (more && p_.settings.optimizer == Optimizer::adam && walks) clock.tick(p_.settings);
        if (walks) w.take_result(p_, result_, warp_index());
        result_.next();
      }
      if (walks) {
        const bool stood = w.alive != 0;
        walk_observe<float>(w.view(rows.prior(state, warp_index()), b_.dims), p_.settings, i);
        if (tells) trace(rows.row(state, first, warp_index()), i, stood, more && w.alive != 0, w);
      }
      if (walks && more) {
        walk_step<float>(w.view(rows.prior(state, warp_index()), b_.dims), p_.settings, clock, i);
        publish(w);
      }
      sync_block();
    }
    if (walks) w.write(b_.m, b_.dims, warp_index());
    sync_block();
    return i;
  }

  // Iterate i of the row at `at`: NaN where it had ended before, or where no gradient was needed.
  DTAG_MEMBER void trace(int64_t at, int i, bool stood, bool goes_on, const LaneWalk& w) const {
    if (at < 0) return;
    const int64_t place = i * p_.call.batch * p_.call.candidates + at;
    const float nan = bits_as<float>(0x7fc00000u);
    if (lane_index() == 0) p_.call.trace_q[place] = stood ? w.q : nan;
    if (lane_index() >= b_.dims) return;
    p_.call.trace_actions[place * b_.dims + lane_index()] = stood ? w.action : nan;
    p_.call.trace_grad[place * b_.dims + lane_index()] = goes_on ? w.grad : nan;
  }

  const Block b_;
  const LatencyParams& p_;
  LatencyLayers<Block> layers_;
  typename Block::Exchange result_;
  const int first_to_, first_c_;  // what this thread sends first: to whom, which number
};

template <class Shape, class Meet, bool relu>
DTAG_KERNEL(cuda::kLatencyThreads)
latency_kernel(const DTAG_GRID_CONSTANT LatencyParams params) {
  LatencyKernel<LatencyBlock<Shape, Meet, relu>>(params).run();
}

}  // namespace dtag::gpu
