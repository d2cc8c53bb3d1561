// Layer by layer over the rows of a tile: what stands between two products. A warp takes a row, a lane the same columns of it
// in every operation, so that no barrier stands between them.
#pragma once
#include "cuda/refine/tensor_plane.h"
#include "cuda/refine/tensor_program.h"
#include "cuda/refine/warp_sums.h"

namespace dtag::gpu {

using cuda::TensorMember;
using cuda::TensorMemory;
using cuda::TensorOp;
using cuda::TensorProgram;
using cuda::TensorStage;

template <class Tile>
DTAG_INLINE uint32_t plane_offset(const TensorMemory& m, int columns) {
  return m.planes + uint32_t(columns) * Tile::kRows * 2;
}

// A lane's pairs of columns of a row of `width` columns: f(word, whether the second of the pair exists).
template <class F>
DTAG_INLINE void over_words(int width, F f) {
  for (int word = lane_index(); word * 2 < width; word += kWarp) f(word, word * 2 + 1 < width);
}

// The operations of one stage on one row.
template <class Tile>
struct RowOps {
  const TensorProgram& p;
  const TensorMemory& m;
  const TensorStage& stage;
  int row;

  DTAG_MEMBER Plane<Tile> plane(int columns) const { return {plane_offset<Tile>(m, columns), stage.out}; }
  DTAG_MEMBER Shared<float> rstd(const TensorOp& op) const {
    return shared_part<float>(plane_offset<Tile>(m, op.saved_rstd), Tile::kRows) + row;
  }

  // In place; saves the normalised values and 1 / standard deviation.
  DTAG_MEMBER void norm_forward(const TensorOp& op) const {
    const Plane<Tile> y = plane(stage.value), saved = plane(op.saved);
    const float count = float(stage.width);
    float sum = 0.f;
    over_words(stage.width, [&](int w, bool) DTAG_LAMBDA {
      const Pair v = y.load(row, w);  // a column beyond the width is zero
      sum += v.a + v.b;
    });
    const float mean = sum_over_warp(sum) / count;
    sum = 0.f;
    over_words(stage.width, [&](int w, bool two) DTAG_LAMBDA {
      const Pair v = y.load(row, w);
      const float a = v.a - mean, b = two ? v.b - mean : 0.f;
      sum += fma(a, a, b * b);
    });
    const float scale = 1.f / sqrt(sum_over_warp(sum) / count + op.p0);
    if (lane_index() == 0) *rstd(op) = scale;
    const float *gain = p.numbers + op.scale, *shift = p.numbers + op.shift;
    over_words(stage.width, [&](int w, bool two) DTAG_LAMBDA {
      const Pair v = y.load(row, w);
      const Pair n{(v.a - mean) * scale, two ? (v.b - mean) * scale : 0.f};
      saved.store(row, w, n);
      y.store(row, w, {fma(n.a, gain[2 * w], shift[2 * w]), two ? fma(n.b, gain[2 * w + 1], shift[2 * w + 1]) : 0.f});
    });
  }

  // g = rstd * (g' - mean(g') - n * mean(g' n)) with g' = g * scale and n the normalised value.
  DTAG_MEMBER void norm_backward(const TensorOp& op) const {
    const Plane<Tile> g = plane(stage.value), saved = plane(op.saved);
    const float* gain = p.numbers + op.scale;
    const float count = float(stage.width);
    const auto scaled = [&](int w, bool two) DTAG_LAMBDA {
      const Pair v = g.load(row, w);
      return Pair{v.a * gain[2 * w], two ? v.b * gain[2 * w + 1] : 0.f};
    };
    float sum = 0.f, dot = 0.f;
    over_words(stage.width, [&](int w, bool two) DTAG_LAMBDA {
      const Pair v = scaled(w, two), n = saved.load(row, w);
      sum += v.a + v.b;
      dot += fma(v.a, n.a, v.b * n.b);
    });
    const float mean = sum_over_warp(sum) / count, slope = sum_over_warp(dot) / count;
    const float scale = shuffle(lane_index() == 0 ? float(*rstd(op)) : 0.f, 0);  // read by the lane that wrote it
    over_words(stage.width, [&](int w, bool two) DTAG_LAMBDA {
      const Pair v = scaled(w, two), n = saved.load(row, w);
      g.store(row, w, {(v.a - mean - n.a * slope) * scale, two ? (v.b - mean - n.b * slope) * scale : 0.f});
    });
  }

  DTAG_MEMBER void activation_forward(const TensorOp& op) const {
    const Plane<Tile> y = plane(stage.value), saved = plane(op.saved);
    with_activation(op.kind, [&]<Activation kind>() DTAG_LAMBDA {
      over_words(stage.width, [&](int w, bool two) DTAG_LAMBDA {
        Pair v = y.load(row, w), slope;
        activate<kind, float>(v.a, op.p0, op.p1, v.a, slope.a);
        activate<kind, float>(v.b, op.p0, op.p1, v.b, slope.b);
        y.store(row, w, {v.a, two ? v.b : 0.f});
        saved.store(row, w, {slope.a, two ? slope.b : 0.f});
      });
    });
  }

  DTAG_MEMBER void forward() const {
    for (int i = 0; i < stage.op_count; ++i) {
      const TensorOp& op = p.ops[stage.ops + i];
      if (op.is_norm)
        norm_forward(op);
      else
        activation_forward(op);
    }
    if (stage.op_count == 0 || !stage.relu) return;  // otherwise the product did it
    const Plane<Tile> y = plane(stage.value);
    over_words(stage.width, [&](int w, bool) DTAG_LAMBDA {
      const Pair v = y.load(row, w);
      y.store(row, w, {v.a <= 0.f ? 0.f : v.a, v.b <= 0.f ? 0.f : v.b});
    });
  }

  // Behind the last hidden layer's operations: Q, summed in float32; with a gradient, that of the layer's output, its ReLU
  // passed, in the output's place.
  DTAG_MEMBER void head(const TensorMember& member, bool with_gradient) const {
    const float* weights = p.numbers + member.head;
    const Plane<Tile> y = plane(stage.value);
    float q = 0.f;
    over_words(stage.out, [&](int w, bool) DTAG_LAMBDA {
      const Pair v = y.load(row, w), weight{weights[2 * w], weights[2 * w + 1]};
      q = fma(v.a, weight.a, q);
      q = fma(v.b, weight.b, q);
      if (!with_gradient) return;
      const bool zero_a = stage.relu && v.a <= 0.f, zero_b = stage.relu && v.b <= 0.f;
      y.store(row, w, {zero_a ? 0.f : weight.a, zero_b ? 0.f : weight.b});
    });
    q = sum_over_warp(q) + p.numbers[member.head_bias];
    if (lane_index() == 0) shared_part<float>(m.walk.q_member, Tile::kRows)[row] = q;
  }

  // From the gradient of the stage's output, its ReLU passed already, to that of its sums.
  DTAG_MEMBER void backward() const {
    const Plane<Tile> g = plane(stage.value);
    for (int i = stage.op_count - 1; i >= 0; --i) {
      const TensorOp& op = p.ops[stage.ops + i];
      if (op.is_norm) {
        norm_backward(op);
        continue;
      }
      const Plane<Tile> saved = plane(op.saved);
      over_words(stage.width, [&](int w, bool) DTAG_LAMBDA {
        const Pair v = g.load(row, w), slope = saved.load(row, w);
        g.store(row, w, {v.a * slope.a, v.b * slope.b});
      });
    }
  }
};

// All threads, before and after a barrier.
template <class Tile, class F>
DTAG_INLINE void over_rows(const TensorProgram& p, const TensorMemory& m, const TensorStage& stage, F f) {
  for (int row = warp_index(); row < Tile::kRows; row += cuda::kThreads / kWarp) f(RowOps<Tile>{p, m, stage, row});
  sync_block();
}

}  // namespace dtag::gpu
