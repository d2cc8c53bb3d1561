// Training of small networks: products of rows with weights that change at every step, so their panels are made at every step.
// Each number is one chain of fused multiply-adds in a fixed order: bits do not depend on the number of threads.
#pragma once
#include "cpu/mlp.h"
#include "cpu/mlp_norm.h"
#include "cpu/panel_product.h"
#include "refine/activations.h"

namespace dtag::DTAG_ISA {

constexpr int kFewOutputs = 4;  // up to here outputs are sums along rows: a panel would be mostly zeros

DTAG_INLINE vf4 zip_low(vf4 a, vf4 b) { return __builtin_shufflevector(a, b, 0, 4, 1, 5); }
DTAG_INLINE vf4 zip_high(vf4 a, vf4 b) { return __builtin_shufflevector(a, b, 2, 6, 3, 7); }
DTAG_INLINE vf8 zip_low(vf8 a, vf8 b) { return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11); }
DTAG_INLINE vf8 zip_high(vf8 a, vf8 b) { return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15); }
DTAG_INLINE vf16 zip_low(vf16 a, vf16 b) {
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
DTAG_INLINE vf16 zip_high(vf16 a, vf16 b) {
  return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}

// to[j][i] = from[i][j], kLanes of each: zipping the halves of the rows log2(kLanes) times moves every index bit around once.
DTAG_INLINE void transpose(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
  vf a[kLanes], b[kLanes];
  DTAG_UNROLL for (int i = 0; i < kLanes; ++i) a[i] = load(from + i * from_stride);
  DTAG_UNROLL for (int stage = 1; stage < kLanes; stage *= 2) {
    DTAG_UNROLL for (int i = 0; i < kLanes / 2; ++i) {
      b[2 * i] = zip_low(a[i], a[i + kLanes / 2]);
      b[2 * i + 1] = zip_high(a[i], a[i + kLanes / 2]);
    }
    DTAG_UNROLL for (int i = 0; i < kLanes; ++i) a[i] = b[i];
  }
  DTAG_UNROLL for (int i = 0; i < kLanes; ++i) store(to + i * to_stride, a[i]);
}

DTAG_INLINE int padded(int width) { return (width + kPanelWidth - 1) / kPanelWidth * kPanelWidth; }
DTAG_INLINE int64_t largest(int64_t a, int64_t b) { return a > b ? a : b; }

class MlpKernel {
 public:
  MlpKernel(const MlpCall& call, int64_t rows, float* scratch) : call_(call) {
    int64_t panels = 0, edge = 0, normed = 0;
    for (int l = 0; l < call.layers; ++l) {
      const int64_t in = call.widths[l], out = call.widths[l + 1];
      panels = largest(panels, largest(padded(int(out)) * in, padded(int(in)) * out));
      edge = largest(edge, padded(int(out)));
      if (call.scales && !call.before && l + 1 < call.layers) normed = edge;
    }
    const int64_t rows_of_ends = largest(padded(call.widths[0]), padded(call.widths[call.layers]));
    Arena arena{reinterpret_cast<uintptr_t>(scratch)};
    arena.take(panels, panels_);
    arena.take(edge, bias_, scale_, shift_);
    arena.take(rows * rows_of_ends, ends_);
    arena.take(rows * normed, normed_);
    scratch_bytes_ = int64_t(arena.at - reinterpret_cast<uintptr_t>(scratch));
  }
  int64_t scratch_bytes() const { return scratch_bytes_; }

  void forward(int member, int64_t begin, int64_t end) {
    const int64_t rows = end - begin;
    int64_t stride = padded(call_.widths[0]);
    const float* in = call_.in + begin * stride;
    for (int l = 0; l + 1 < call_.layers; ++l) {
      const int64_t width = padded(call_.widths[l + 1]), skip = offset(member, l) + begin * width;
      float *hidden = call_.hidden + skip, *before = call_.before ? call_.before + skip : nullptr;
      float* z = !call_.scales ? hidden : before ? before : normed_;
      pack(member, l);
      for (int64_t c = 0; c < width; c += kPanelWidth) {
        panel_product(int(rows), in, stride, call_.widths[l], panels_ + c * call_.widths[l], kPanelWidth, bias_ + c, z + c, width);
        if (!call_.scales) activate_panel(rows, width, hidden + c, before ? before + c : nullptr);
      }
      if (call_.scales) {
        const RowNorm norm = row_norm(member, l);
        float* rstd = call_.rstd ? call_.rstd + norm_index(call_, member, l) * call_.rows + begin : nullptr;
        with_activation(call_.activation, [&]<Activation kind>() DTAG_LAMBDA {
          norm_rows_forward<kind>(norm, call_.eps[l], rows, z, hidden, rstd);
        });
      }
      in = hidden;
      stride = width;
    }
    const int l = call_.layers - 1, out = call_.widths[call_.layers];
    float* to = call_.out + (member * call_.rows + begin) * out;
    if (out <= kFewOutputs) return few_outputs(member, l, rows, in, stride, to);
    const int64_t width = padded(out);
    pack(member, l);
    for (int64_t c = 0; c < width; c += kPanelWidth)
      panel_product(int(rows), in, stride, call_.widths[l], panels_ + c * call_.widths[l], kPanelWidth, bias_ + c, ends_ + c, width);
    unpad(ends_, width, rows, out, to);
  }

  void backward(const MlpGradients& g, int member, int64_t begin, int64_t end) {
    const int64_t rows = end - begin;
    const float* from = g.out + (member * call_.rows + begin) * call_.widths[call_.layers];
    int64_t from_stride = call_.widths[call_.layers];
    for (int l = call_.layers - 1; l >= 0; --l) {
      if (l == 0 && !g.in) break;
      const int in = call_.widths[l], out = call_.widths[l + 1];
      const int64_t width = padded(in), skip = l ? offset(member, l - 1) + begin * width : 0;
      float* to = l ? g.hidden + skip : ends_;
      const float* weight = rows_of_panels(call_.weights[member * call_.layers + l], out, in);
      for (int64_t c = 0; c < width; c += kPanelWidth) {
        panel_product(int(rows), from, from_stride, out, weight + c, width, nullptr, to + c, width);
        if (l && !call_.scales)
          slope_panel(rows, width, call_.hidden + skip + c, call_.before ? call_.before + skip + c : nullptr, to + c);
      }
      if (l && call_.scales) {
        const RowNorm norm = row_norm(member, l - 1);
        const float* rstd = call_.rstd + norm_index(call_, member, l - 1) * call_.rows + begin;
        float* sums = g.sums ? g.sums + sums_offset(call_, member, l - 1) + begin / kBlock * 2 * width : nullptr;
        with_activation(call_.activation, [&]<Activation kind>() DTAG_LAMBDA {
          norm_rows_backward<kind>(norm, rows, call_.before + skip, rstd, to, sums);
        });
      }
      if (!l) unpad(ends_, width, rows, in, g.in + (member * call_.rows + begin) * in);
      from = to;
      from_stride = width;
    }
  }

  static int64_t sums_size(const MlpCall& call) { return sums_offset(call, call.members, 0); }

  // Pieces of a layer: blocks of kBlock outputs, and the biases with LayerNorm.
  static int pieces(const MlpCall& call) {
    int count = 0;
    for (int l = 0; l < call.layers; ++l) count += blocks(call, l) + 1;
    return count;
  }

  static void weights(const MlpCall& call, const MlpGradients& g, int member, int piece) {
    int l = 0;
    for (; piece > blocks(call, l); ++l) piece -= blocks(call, l) + 1;
    const int in = call.widths[l], out = call.widths[l + 1];
    const bool last = l + 1 == call.layers;
    const float* z = last ? g.out + member * call.rows * out : g.hidden + offset(call, member, l);
    const int64_t z_stride = last ? out : padded(out), width = padded(in);
    if (piece == blocks(call, l)) {
      column_sums(z, z_stride, call.rows, out, g.biases[member * call.layers + l]);
      if (last || !g.scales) return;
      const float* sums = g.sums + sums_offset(call, member, l);
      column_sums(sums, 2 * z_stride, row_blocks(call), out, g.scales[norm_index(call, member, l)]);
      return column_sums(sums + z_stride, 2 * z_stride, row_blocks(call), out, g.shifts[norm_index(call, member, l)]);
    }
    const int first = piece * kBlock, count = out - first < kBlock ? out - first : kBlock;
    const float* x = l ? call.hidden + offset(call, member, l - 1) : call.in;
    float* to = g.weights[member * call.layers + l] + int64_t(first) * in;
    for (int c = 0; c < in; c += kPanelWidth) {
      if (c + kPanelWidth <= in) {
        outer_product(count, z + first, z_stride, int(call.rows), x + c, width, to + c, in);
      } else {
        float tail[kBlock * kPanelWidth];
        outer_product(count, z + first, z_stride, int(call.rows), x + c, width, tail, kPanelWidth);
        for (int o = 0; o < count; ++o)
          for (int k = c; k < in; ++k) to[int64_t(o) * in + k] = tail[o * kPanelWidth + k - c];
      }
    }
  }

 private:
  static int blocks(const MlpCall& call, int l) { return (call.widths[l + 1] + kBlock - 1) / kBlock; }

  // Numbers of a row of all hidden layers before a member's l + 1.
  static int64_t columns_before(const MlpCall& call, int member, int l) {
    int64_t before = 0, all = 0;
    for (int i = 0; i + 1 < call.layers; ++i) {
      if (i < l) before += padded(call.widths[i + 1]);
      all += padded(call.widths[i + 1]);
    }
    return member * all + before;
  }
  // Where a member's rows of hidden layer l + 1 begin.
  static int64_t offset(const MlpCall& call, int member, int l) { return columns_before(call, member, l) * call.rows; }
  int64_t offset(int member, int l) const { return offset(call_, member, l); }

  // The same of the sums that make the gradients of its LayerNorm, two rows of them for every kBlock rows.
  static int64_t sums_offset(const MlpCall& call, int member, int l) {
    return columns_before(call, member, l) * 2 * row_blocks(call);
  }
  static int64_t row_blocks(const MlpCall& call) { return (call.rows + kBlock - 1) / kBlock; }
  static int norm_index(const MlpCall& call, int member, int l) { return member * (call.layers - 1) + l; }

  // Panels of a layer's weights by input, and its biases with zeros behind them.
  void pack(int member, int l) {
    const int in = call_.widths[l], out = call_.widths[l + 1];
    const float *weight = call_.weights[member * call_.layers + l], *bias = call_.biases[member * call_.layers + l];
    zeros_behind(bias, out, bias_);
    for (int o = 0; o < padded(out); o += kLanes) {
      float* panel = panels_ + int64_t(o / kPanelWidth) * kPanelWidth * in + o % kPanelWidth;
      int k = 0;
      if (o + kLanes <= out)
        for (; k + kLanes <= in; k += kLanes) transpose(weight + int64_t(o) * in + k, in, panel + k * kPanelWidth, kPanelWidth);
      for (; k < in; ++k)
        for (int j = 0; j < kLanes; ++j) panel[k * kPanelWidth + j] = o + j < out ? weight[int64_t(o + j) * in + k] : 0.f;
    }
  }

  static void zeros_behind(const float* from, int width, float* to) {
    for (int k = 0; k < padded(width); ++k) to[k] = k < width ? from[k] : 0.f;
  }

  // The LayerNorm of hidden layer l + 1.
  RowNorm row_norm(int member, int l) {
    const int width = call_.widths[l + 1], i = norm_index(call_, member, l);
    zeros_behind(call_.scales[i], width, scale_);
    zeros_behind(call_.shifts[i], width, shift_);
    return {scale_, shift_, width, padded(width)};
  }

  // A layer's weights (out, in) with rows of whole panels: as they are, or a copy.
  const float* rows_of_panels(const float* weight, int out, int in) {
    const int width = padded(in);
    if (width == in) return weight;
    for (int64_t o = 0; o < out; ++o)
      for (int k = 0; k < width; ++k) panels_[o * width + k] = k < in ? weight[o * in + k] : 0.f;
    return panels_;
  }

  static void unpad(const float* from, int64_t from_stride, int64_t rows, int width, float* to) {
    for (int64_t r = 0; r < rows; ++r)
      for (int k = 0; k < width; ++k) to[r * width + k] = from[r * from_stride + k];
  }

  void few_outputs(int member, int l, int64_t rows, const float* in, int64_t stride, float* to) {
    const int depth = call_.widths[l], out = call_.widths[l + 1];
    for (int64_t r = 0; r < rows; ++r)
      for (int o = 0; o < out; ++o) {
        const float *x = in + r * stride, *w = call_.weights[member * call_.layers + l] + int64_t(o) * depth;
        vf sum = {};
        int k = 0;
        for (; k + kLanes <= depth; k += kLanes) sum = fma(load(x + k), load(w + k), sum);
        float total = sum_lanes(sum);
        for (; k < depth; ++k) total = fma(x[k], w[k], total);
        to[r * out + o] = total + call_.biases[member * call_.layers + l][o];
      }
  }

  void activate_panel(int64_t rows, int64_t stride, float* z, float* before) {
    with_activation(call_.activation, [&]<Activation kind>() DTAG_LAMBDA {
      for (int64_t r = 0; r < rows; ++r)
        for (int v = 0; v < kVectors; ++v) {
          const int64_t at = r * stride + v * kLanes;
          const vf x = load(z + at);
          vf value, slope;
          activate<kind>(x, 1.f, 20.f, value, slope);
          if (before) store(before + at, x);
          store(z + at, value);
        }
    });
  }

  // to *= slope of the activation; ReLU's is told by its value.
  void slope_panel(int64_t rows, int64_t stride, const float* hidden, const float* before, float* to) {
    const float* z = before ? before : hidden;
    with_activation(call_.activation, [&]<Activation kind>() DTAG_LAMBDA {
      for (int64_t r = 0; r < rows; ++r)
        for (int v = 0; v < kVectors; ++v) {
          const int64_t at = r * stride + v * kLanes;
          vf value, slope;
          activate<kind>(load(z + at), 1.f, 20.f, value, slope);
          store(to + at, load(to + at) * slope);
        }
    });
  }

  // out[o][k] = sum over r of z[r][o] x[r][k]
  static void outer_product(int count, const float* z, int64_t z_stride, int rows, const float* x, int64_t x_stride, float* out,
                            int64_t out_stride) {
    if (count == kBlock)
      panel_block<kBlock>(z, Adjacent{}, rows, x, x_stride, nullptr, out, out_stride, z_stride);
    else
      last_rows<kBlock - 1>(count, z, Adjacent{}, rows, x, x_stride, nullptr, out, out_stride, z_stride);
  }

  static void column_sums(const float* z, int64_t stride, int64_t rows, int width, float* to) {
    int k = 0;
    for (; k + kLanes <= width; k += kLanes) {
      vf sum = {};
      for (int64_t r = 0; r < rows; ++r) sum += load(z + r * stride + k);
      store(to + k, sum);
    }
    for (; k < width; ++k) {
      float sum = 0.f;
      for (int64_t r = 0; r < rows; ++r) sum += z[r * stride + k];
      to[k] = sum;
    }
  }

  const MlpCall& call_;
  float *panels_, *bias_, *scale_, *shift_, *ends_, *normed_;
  int64_t scratch_bytes_ = 0;
};

}  // namespace dtag::DTAG_ISA
