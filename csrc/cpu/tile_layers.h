// Layer by layer over the strips of a tile: one member forward, and back to the action.
// Every array of w units is [strip][unit][kStrip].
#pragma once
#include "cpu/activate_all.h"
#include "cpu/compact.h"
#include "cpu/strip_product.h"

namespace dtag::DTAG_ISA {

// What the backward pass reads of the forward pass: as it was left, or compacted to the rows that chose the member.
struct Saved {
  const float* base;
  int64_t rows;     // a unit takes this many floats over all strips
  int unit_stride;  // kStrip or kCompactStrip
  bool compact;
  const float* strip(int64_t units_before, int width, int strip) const {
    return base + units_before * rows + int64_t(strip) * width * unit_stride;
  }
};

// LayerNorm over the units of a strip, in place; saves the normalised values and 1 / standard deviation.
static void strip_norm_forward(const PackedOp& op, int width, float* x, float* normalised, float* rstd) {
  for (int v = 0; v < kStrip; v += kLanes) {
    vf sum = {}, squares = {};
    for (int u = 0; u < width; ++u) sum += load(x + u * kStrip + v);
    const vf mean = sum / float(width);
    for (int u = 0; u < width; ++u) {
      const vf d = load(x + u * kStrip + v) - mean;
      squares = fma(d, d, squares);
    }
    const vf scale = 1.f / sqrt(squares / float(width) + op.p0);
    store(rstd + v, scale);
    for (int u = 0; u < width; ++u) {
      const vf n = (load(x + u * kStrip + v) - mean) * scale;
      store(normalised + u * kStrip + v, n);
      store(x + u * kStrip + v, fma(n, splat(op.scale[u]), splat(op.shift[u])));
    }
  }
}

// g = rstd * (g' - mean(g') - n * mean(g' n)) with g' = g * scale and n the normalised value.
static void strip_norm_backward(const PackedOp& op, int width, float* g, const float* normalised, const float* rstd,
                          int saved_stride) {
  for (int v = 0; v < kStrip; v += kLanes) {
    vf sum = {}, dot = {};
    for (int u = 0; u < width; ++u) {
      const vf scaled = load(g + u * kStrip + v) * op.scale[u];
      store(g + u * kStrip + v, scaled);
      sum += scaled;
      dot = fma(scaled, load(normalised + u * saved_stride + v), dot);
    }
    const vf mean = sum / float(width), slope = dot / float(width), scale = load(rstd + v);
    for (int u = 0; u < width; ++u) {
      const vf n = load(normalised + u * saved_stride + v);
      store(g + u * kStrip + v, (load(g + u * kStrip + v) - mean - n * slope) * scale);
    }
  }
}

static void activation_backward(const PackedOp& op, int width, float* g, const float* saved, int saved_stride) {
  for (int u = 0; u < width; ++u)
    for (int v = 0; v < kStrip; v += kLanes) {
      float* at = g + u * kStrip + v;
      const vf s = load(saved + u * saved_stride + v);
      store(at, op.in_place ? select(s <= 0.f, vf{}, load(at)) : load(at) * s);
    }
}

static void ops_forward(const PackedStage& stage, int64_t rows, int strip, float* value, float* units) {
  const int64_t at = int64_t(strip) * stage.out * kStrip;
  for (int i = 0; i < stage.op_count; ++i) {
    const PackedOp& op = stage.ops[i];
    float* saved = op.saved < 0 ? nullptr : units + op.saved * rows + at;
    if (op.is_norm)
      strip_norm_forward(op, stage.out, value, saved, units + op.saved_rstd * rows + strip * kStrip);
    else
      activate_all(op.kind, value, saved, int64_t(stage.out) * kStrip, op.p0, op.p1);
  }
}

// `taken` counts down the saved units of the stages from this one on, in the order in which they are compacted.
static void ops_backward(const PackedStage& stage, const Saved& saved, int64_t taken, int strip, float* g) {
  for (int i = stage.op_count - 1; i >= 0; --i) {
    const PackedOp& op = stage.ops[i];
    const int width = stage.out;
    if (op.is_norm) {
      taken -= width + 1;
      const float* normalised = saved.strip(saved.compact ? taken : op.saved, width, strip);
      const float* rstd = saved.strip(saved.compact ? taken + width : op.saved_rstd, 1, strip);
      strip_norm_backward(op, width, g, normalised, rstd, saved.unit_stride);
    } else if (op.kind != Activation::identity) {
      taken -= width;
      const int64_t at = saved.compact ? taken : op.in_place ? stage.value : op.saved;
      activation_backward(op, width, g, saved.strip(at, width, strip), saved.unit_stride);
    }
  }
}

static int64_t saved_units(const PackedStage& stage) {
  int64_t units = 0;
  for (int i = 0; i < stage.op_count; ++i)
    units += stage.ops[i].is_norm ? stage.out + 1 : stage.ops[i].kind == Activation::identity ? 0 : stage.out;
  return units;
}

// Copies what backward() will read, for the rows named by `moves`.
static void compact_saved(const PackedMember& m, const Move* moves, int count, const float* units, int64_t rows,
                          float* to, int64_t to_rows) {
  for (int l = 0; l < m.depth; ++l)
    for (int i = 0; i < m.stages[l].op_count; ++i) {
      const PackedOp& op = m.stages[l].ops[i];
      if (!op.is_norm && op.kind == Activation::identity) continue;
      const int width = m.stages[l].out;
      apply_moves(moves, count, units + (op.in_place ? m.stages[l].value : op.saved) * rows, to, width);
      to += width * to_rows;
      if (!op.is_norm) continue;
      apply_moves(moves, count, units + op.saved_rstd * rows, to, 1);
      to += to_rows;
    }
}

// Vectors of strip `strip` in use when the tile has `vectors` of them.
DTAG_INLINE int vectors_of(int strip, int vectors) {
  const int left = vectors - strip * kVectors;
  return left < kVectors ? left : kVectors;
}

// Whether a stage's only op is a ReLU, which the product before it, and the one after it on the way back, apply themselves.
DTAG_INLINE bool only_relu(const PackedStage& stage) { return stage.op_count == 1 && stage.ops[0].in_place; }

// values and saved arrays of member m into `units`; `live` tells the strips that have rows still walking.
static void forward(const PackedMember& m, int64_t rows, int vectors, const bool* live, const float* action,
                    float* units, uint32_t* pairs) {
  for (int l = 0; l < m.depth; ++l) {
    const PackedStage& stage = m.stages[l];
    for (int s = 0; s * kVectors < vectors; ++s) {
      if (!live[s]) continue;
      const int v = vectors_of(s, vectors);
      float* value = units + stage.value * rows + int64_t(s) * stage.out * kStrip;
      if (l == 0) {
        const float* base = units + m.base * rows + int64_t(s) * stage.out * kStrip;
        const float* in = action + int64_t(s) * stage.in * kStrip;
        only_relu(stage) ? strip_product<Init::array, Finish::relu>(stage.forward, v, in, base, value, pairs)
                         : strip_product<Init::array>(stage.forward, v, in, base, value, pairs);
      } else {
        const float* in = units + m.stages[l - 1].value * rows + int64_t(s) * stage.in * kStrip;
        only_relu(stage) ? strip_product<Init::bias, Finish::relu>(stage.forward, v, in, stage.bias, value, pairs)
                         : strip_product<Init::bias>(stage.forward, v, in, stage.bias, value, pairs);
      }
      if (!only_relu(stage)) ops_forward(stage, rows, s, value, units);
    }
  }
}

// dQ/da times `seed`, or each row's own of `seeds`, into grad_action. g and spare: max_width units each.
static void backward(const PackedMember& m, const Saved& saved, int vectors, const bool* live, float seed,
                     int max_width, float* g, float* spare, float* grad_action, uint32_t* pairs,
                     const float* seeds = nullptr) {
  const int64_t strip_floats = int64_t(max_width) * kStrip;
  int64_t taken = m.saved_units;
  for (int s = 0; s * kVectors < vectors; ++s)
    for (int v = 0; v < kStrip; v += kLanes)
      store(g + s * strip_floats + v, seeds ? load(seeds + s * kStrip + v) : splat(seed));
  for (int l = m.depth - 1; l >= 0; --l) {
    const PackedStage& stage = m.stages[l];
    const PackedStage* before = l > 0 && only_relu(m.stages[l - 1]) ? &m.stages[l - 1] : nullptr;
    const bool masked = l + 1 < m.depth && only_relu(stage);  // by the product of the stage behind it
    const int64_t left = taken - saved_units(stage);
    for (int s = 0; s * kVectors < vectors; ++s) {
      if (live && !live[s]) continue;
      const int v = vectors_of(s, vectors);
      float* at = g + s * strip_floats;
      if (!masked) ops_backward(stage, saved, taken, s, at);
      float* to = l == 0 ? grad_action + int64_t(s) * stage.in * kStrip : spare + s * strip_floats;
      if (!before) {
        strip_product<Init::zero>(stage.backward, v, at, nullptr, to, pairs);
        continue;
      }
      const float* value = saved.strip(saved.compact ? left - before->out : before->value, before->out, s);
      strip_product<Init::zero, Finish::mask>(stage.backward, v, at, nullptr, to, pairs, {value, saved.unit_stride});
    }
    taken = left;
    float* swap = g;
    g = spare;
    spare = swap;
  }
}

}  // namespace dtag::DTAG_ISA
