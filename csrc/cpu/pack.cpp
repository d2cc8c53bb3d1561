#include "cpu/pack.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/bf16.h"

namespace dtag {
namespace {

// A view of a weight matrix, or of its transpose, or of some of its columns.
struct View {
  const float* data;
  int rows, cols;
  int64_t row_stride, col_stride;
  float at(int r, int c) const { return data[r * row_stride + c * col_stride]; }
  const float* row(int r) const { return data + r * row_stride; }
  View transposed() const { return {data, cols, rows, col_stride, row_stride}; }
};

// Integers and no early exit: compilers vectorize it.
bool all_finite(const std::vector<float>& values) {
  uint32_t bad = 0;
  for (float v : values) {
    uint32_t u;
    std::memcpy(&u, &v, 4);
    bad |= uint32_t((u & 0x7f800000u) == 0x7f800000u);
  }
  return bad == 0;
}

bool bf16_finite(const std::vector<float>& values) {
  for (float v : values)
    if (!std::isfinite(through_bf16(v))) return false;
  return true;
}

// Columns c0 .. c0 + count of w to rows of `width` floats. Transposes go in runs of 16 rows: strided reads alone would
// fall on the same few lines of the cache over and over.
void copy_panel(const View& w, int c0, int count, int width, float* to) {
  if (w.col_stride == 1) {
    for (int r = 0; r < w.rows; ++r) std::memcpy(to + int64_t(r) * width, w.row(r) + c0, size_t(count) * 4);
    return;
  }
  for (int r0 = 0; r0 < w.rows; r0 += 16)
    for (int c = 0; c < count; ++c)
      for (int r = r0, last = std::min(r0 + 16, w.rows); r < last; ++r) to[int64_t(r) * width + c] = w.at(r, c0 + c);
}

void copy(const float* from, int64_t stride, int count, float* to) {
  if (stride == 1) {
    std::memcpy(to, from, size_t(count) * 4);
  } else {
    for (int i = 0; i < count; ++i) to[i] = from[i * stride];
  }
}

int64_t round_up(int64_t n, int64_t m) { return (n + m - 1) / m * m; }

}  // namespace

class Packer {
 public:
  Packer(Packing& packing, const Program& program, const Geometry& geometry, KernelKind kind, bool bf16)
      : to_(packing), view_(packing.view_), program_(program), g_(geometry), kind_(kind), bf16_(bf16) {}

  void run() {
    view_.geometry = g_;
    view_.state_dim = program_.state_dim;
    view_.action_dim = program_.action_dim;
    view_.max_width = program_.action_dim;
    for (const auto& stages : program_.members) to_.members_.push_back(member(stages));
    view_.members = to_.members_.data();
    view_.member_count = int(to_.members_.size());
  }

 private:
  const Buffer& buffer(size_t bytes) { return to_.buffers_.emplace_back(bytes); }

  const float* vector(const std::vector<float>& values) {
    const Buffer& b = buffer(size_t(round_up(int64_t(values.size()), 2 * g_.lanes)) * 4);
    std::memcpy(b.floats(), values.data(), values.size() * 4);
    return b.floats();
  }

  int64_t take(int width) {
    const int64_t at = view_.units;
    view_.units += kind_ == KernelKind::rows ? round_up(width, 2 * g_.lanes) : width;
    return at;
  }

  PackedMember member(const std::vector<Stage>& stages) {
    PackedMember m;
    m.base = take(stages[0].out);
    auto& packed = to_.stages_.emplace_back();
    for (size_t l = 0; l < stages.size(); ++l)
      packed.push_back(stage(stages[l], l == 0, l > 0 && ends_in_relu(stages[l - 1]), m));
    m.stages = packed.data();
    m.depth = int(packed.size());
    view_.max_saved_units = std::max(view_.max_saved_units, m.saved_units);
    return m;
  }

  static bool ends_in_relu(const Stage& s) {
    return !s.post.empty() && !s.post.back().is_norm && s.post.back().kind == Activation::relu;
  }

  PackedStage stage(const Stage& s, bool first, bool relu_in, PackedMember& m) {
    PackedStage p;
    p.in = first ? program_.action_dim : s.in;
    p.out = s.out;
    p.bias = vector(s.bias);
    view_.max_width = std::max(view_.max_width, s.out);
    // The weights that stay in the loop: of the first layer only the action's columns.
    const View w{s.weight.data() + (first ? program_.state_dim : 0), s.out, p.in, s.in, 1};
    const View state{s.weight.data(), s.out, program_.state_dim, s.in, 1};
    const bool finite = all_finite(s.weight);
    // A bf16 dot product multiplies the other weight of a pair by zero, and zero times infinity is NaN.
    const bool bf16 = bf16_ && takes_bf16(s, first) && bf16_finite(s.weight);
    p.skip_in = relu_in && finite;
    p.value = take(s.out);
    auto& ops = to_.ops_.emplace_back();
    for (size_t i = 0; i < s.post.size(); ++i) ops.push_back(op(s, i, m));
    p.ops = ops.data();
    p.op_count = int(ops.size());
    if (kind_ == KernelKind::rows) {
      if (p.out >= kFew)
        p.by_input = rows(w.transposed(), bf16);
      else
        p.by_output = rows(w, false);
      if (first) m.state_rows = rows(state.transposed(), false);
    } else {
      p.forward = blocks(w, bf16, bf16 && g_.bf16_dot);
      p.backward = blocks(w.transposed(), bf16, bf16 && g_.bf16_dot);
      if (first) m.state_blocks = blocks(state, false, false);
    }
    return p;
  }

  PackedOp op(const Stage& s, size_t i, PackedMember& m) {
    const PostOp& from = s.post[i];
    PackedOp o;
    o.is_norm = from.is_norm;
    o.kind = from.kind;
    o.p0 = from.p0;
    o.p1 = from.p1;
    if (o.is_norm) {
      o.scale = vector(from.scale);
      o.shift = vector(from.shift);
      o.saved = take(s.out);
      o.saved_rstd = take(1);
      m.saved_units += s.out + 1;
    } else if (o.kind != Activation::identity) {
      o.in_place = o.kind == Activation::relu && i + 1 == s.post.size();
      if (!o.in_place) o.saved = take(s.out);
      m.saved_units += s.out;
    }
    return o;
  }

  RowMatrix rows(const View& w, bool bf16) {
    RowMatrix m;
    m.rows = w.rows;
    m.cols = w.cols;
    m.bf16 = bf16;
    m.padded = int(round_up(w.cols, bf16 ? 2 * g_.lanes : g_.lanes));
    const Buffer& data = buffer(size_t(m.rows) * size_t(m.padded) * (bf16 ? 2 : 4));
    m.data = data.floats();
    int64_t at = 0;  // in elements
    int width = g_.panel * g_.lanes;
    for (int c0 = 0; c0 < m.padded; c0 += width) {
      while (width > m.padded - c0) width /= 2;
      const int count = std::min(width, w.cols - c0);
      if (!bf16) {
        copy_panel(w, c0, count, width, data.floats() + at);
        at += int64_t(width) * m.rows;
        continue;
      }
      for (int r = 0; r < m.rows; ++r, at += width) {
        for (int c = 0; c < count; ++c) {
          const int group = c / (2 * g_.lanes), lane = c % g_.lanes, upper = c / g_.lanes % 2;
          data.halves()[at + group * 2 * g_.lanes + 2 * lane + upper] = to_bf16(w.at(r, c0 + c));
        }
      }
    }
    return m;
  }

  // w has a row per output. `rounded`: the weights take bf16 values; `pairs`: and are stored so, two inputs a word.
  BlockMatrix blocks(const View& w, bool rounded, bool pairs) {
    BlockMatrix m;
    m.in = w.cols;
    m.out = w.rows;
    m.bf16 = pairs;
    if (pairs && g_.tiles) return tiles(w, m);
    const int steps = pairs ? (w.cols + 1) / 2 : w.cols;
    const Buffer& data = buffer(size_t(steps) * size_t(w.rows) * 4);
    m.data = data.floats();
    int64_t at = 0;
    for (int r0 = 0; r0 < w.rows; r0 += g_.block) {
      const int width = std::min(g_.block, w.rows - r0);
      for (int k = 0; k < steps; ++k, at += width) {
        if (!rounded) {
          copy(w.row(r0) + k * w.col_stride, w.row_stride, width, data.floats() + at);
          continue;
        }
        for (int j = 0; j < width; ++j) {
          if (pairs) {
            const uint32_t low = to_bf16(w.at(r0 + j, 2 * k));
            const uint32_t high = 2 * k + 1 < w.cols ? to_bf16(w.at(r0 + j, 2 * k + 1)) : 0;
            data.words()[at + j] = low | high << 16;
          } else {
            data.floats()[at + j] = through_bf16(w.at(r0 + j, k));
          }
        }
      }
    }
    return m;
  }

  BlockMatrix tiles(const View& w, BlockMatrix m) {
    constexpr int outputs = 16, inputs = 32;
    const int64_t steps = round_up(w.cols, inputs) / inputs;
    const Buffer& data = buffer(size_t(round_up(w.rows, outputs) * steps * inputs) * 2);
    m.data = data.floats();
    for (int r = 0; r < w.rows; ++r)
      for (int k = 0; k < w.cols; ++k)
        data.halves()[((r / outputs * steps + k / inputs) * outputs + r % outputs) * inputs + k % inputs] = to_bf16(w.at(r, k));
    return m;
  }

  Packing& to_;
  Packed& view_;
  const Program& program_;
  const Geometry& g_;
  KernelKind kind_;
  bool bf16_;
};

Packing::Packing(const Program& program, const Geometry& geometry, KernelKind kind, bool bf16) {
  Packer(*this, program, geometry, kind, bf16).run();
}

}  // namespace dtag
