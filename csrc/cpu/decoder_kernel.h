// A step of some rollouts from inputs to actions on one thread, every intermediate in its caches: tokens of all rollouts go
// through the matrices together, attention looks at each window alone. A rollout's bits depend on no other.
#pragma once
#include "cpu/bf16_product.h"
#include "refine/activations.h"

namespace dtag::DTAG_ISA {

constexpr int kFewQueries = 4;  // up to here keys are not put into panels
// Rows of the MLP's hidden layer at a time, whole blocks of every product: 120 KB where D = 128.
constexpr int kMlpRows = kTiles ? 64 : 60;

DTAG_INLINE int64_t round_up_to(int64_t n, int64_t m) { return (n + m - 1) / m * m; }
DTAG_INLINE void copy_floats(float* to, const float* from, int64_t count) { __builtin_memcpy(to, from, size_t(count) * 4); }

// Sum of f(vector) over a row's whole vectors and of f(number) over the rest.
template <class F>
DTAG_INLINE float sum_row(int count, F f) {
  vf sum = {};
  int i = 0;
  for (; i + kLanes <= count; i += kLanes) sum += f(vf{}, i);
  float total = sum_lanes(sum);
  for (; i < count; ++i) total += f(0.f, i);
  return total;
}
DTAG_INLINE vf get(const float* p, vf) { return load(p); }
DTAG_INLINE float get(const float* p, float) { return *p; }

// f(vector or number, index) over a row.
template <class F>
DTAG_INLINE void each_in_row(int count, F f) {
  int i = 0;
  for (; i + kLanes <= count; i += kLanes) f(vf{}, i);
  for (; i < count; ++i) f(0.f, i);
}

DTAG_INLINE float dot_row(const float* a, const float* b, int count) {
  return sum_row(count, [=](auto like, int i) DTAG_LAMBDA { return get(a + i, like) * get(b + i, like); });
}

// to = LayerNorm(x + y), y may be null; `to` may be x or y.
DTAG_FUNCTION void norm_row(const NormWeights& w, int width, const float* x, const float* y, float* to) {
  each_in_row(width, [=](auto like, int i) DTAG_LAMBDA {
    put(to + i, y ? get(x + i, like) + get(y + i, like) : get(x + i, like));
  });
  const float mean = sum_row(width, [=](auto like, int i) DTAG_LAMBDA { return get(to + i, like); }) / float(width);
  const float squares = sum_row(width, [=](auto like, int i) DTAG_LAMBDA {
    const auto d = get(to + i, like) - mean;
    return d * d;
  });
  const float rstd = 1.f / sqrt(squares / float(width) + w.eps);
  each_in_row(width, [=, &w](auto like, int i) DTAG_LAMBDA {
    put(to + i, fma((get(to + i, like) - mean) * rstd, get(w.scale + i, like), get(w.shift + i, like)));
  });
}

// Weights softmax(scale * scores) over `count` scores, in place.
DTAG_FUNCTION void softmax_row(float* scores, int count, float scale) {
  vf highest = splat(scores[0]);
  int tail = 0;
  for (; tail + kLanes <= count; tail += kLanes) {
    const vf x = load(scores + tail);
    highest = select(x > highest, x, highest);
  }
  float most = scores[0];
  for (int l = 0; l < kLanes; ++l) most = highest[l] > most ? highest[l] : most;
  for (; tail < count; ++tail) most = scores[tail] > most ? scores[tail] : most;
  each_in_row(count, [=](auto like, int i) DTAG_LAMBDA { put(scores + i, exp((get(scores + i, like) - most) * scale)); });
  const float total = sum_row(count, [=](auto like, int i) DTAG_LAMBDA { return get(scores + i, like); });
  const float share = 1.f / total;
  each_in_row(count, [=](auto like, int i) DTAG_LAMBDA { put(scores + i, get(scores + i, like) * share); });
}

class DecoderKernel {
 public:
  // For up to `sequences` rollouts and `tokens` tokens to compute; with scratch null only to measure it.
  DecoderKernel(const DecoderWeights& w, const DecoderRings& rings, int64_t sequences, int64_t tokens, float* scratch)
      : w_(w), rings_(rings), slots_(3 * w.context_len), head_(w.d_model / w.n_head) {
    stride_ = round_up_to(w.d_model, kPanelWidth);
    key_value_stride_ = round_up_to(2 * w.d_model, kPanelWidth);
    mixed_stride_ = stride_ + kPanelWidth;  // the last head's panel may reach beyond the last column
    hidden_stride_ = round_up_to(4 * w.d_model, kPanelWidth);
    score_stride_ = round_up_to(slots_, kPanelWidth);
    small_stride_ = round_up_to(w.action_dim, kPanelWidth);
    const int64_t longest = slots_ < tokens ? slots_ : tokens;
    Arena arena{reinterpret_cast<uintptr_t>(scratch)};
    const int64_t rows = tokens > sequences ? tokens : sequences;
    most_ = tokens;
    arena.take(sequences, all_);
    arena.take(rows * stride_, x_, y_, query_);
    arena.take(rows * key_value_stride_ + kPanelWidth, key_value_);
    arena.take(rows * mixed_stride_, mixed_);
    arena.take(sequences * stride_, seen_);
    arena.take(kMlpRows * hidden_stride_, hidden_);
    arena.take(score_stride_ * (longest > kFewQueries ? longest : kFewQueries), scores_);
    arena.take(score_stride_ * head_, keys_);
    arena.take(sequences * small_stride_, small_);
    arena.take(sequences * kPanelWidth, predicted_);
    if (w.bf16) {
      const int64_t narrow = padded_rows(rows) * bf16_row_bytes(w.d_model);
      const int64_t wide = padded_rows(kMlpRows) * bf16_row_bytes(4 * w.d_model);
      arena.take(narrow > wide ? narrow : wide, rounded_);
    }
    scratch_bytes_ = int64_t(arena.at - reinterpret_cast<uintptr_t>(scratch));
  }
  int64_t scratch_bytes() const { return scratch_bytes_; }

  // Rollouts begin .. end of the call.
  void run(const DecoderCall& call, int64_t begin, int64_t end) {
    if (!kTiles || !w_.bf16) return act(call, begin, end);
    TileRegisters tiles;
    act(call, begin, end);
  }

 private:
  struct Sequence {
    int64_t rollout, timestep;
    int64_t begin;  // its first row
    int first;      // slot of the window's first token
    int count;      // tokens in the window
    int size;       // of them computed here, the last ones
    int fresh;      // of them without a projection yet, the last ones
  };

  // Windows group by group; the predicted returns' tokens, one of each rollout, all together.
  void act(const DecoderCall& call, int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; at += count_) {
      lay_out(call, at, end, all_ + (at - begin));
      embed_known(call, at);
      blocks();
      copy_floats(seen_ + (at - begin) * stride_, x_, count_ * stride_);
    }
    sequences_ = all_;
    count_ = end - begin;
    const float* last = seen_;
    if (w_.predicts_returns) {
      linear(w_.return_head, count_, seen_, stride_, predicted_, kPanelWidth);
      for (int64_t i = 0; i < count_; ++i) call.predicted[begin + i] = predicted_[i * kPanelWidth];
      append_return();
      blocks();
      last = x_;
    }
    linear(w_.action_head, count_, last, stride_, small_, small_stride_);
    for (int64_t i = 0; i < count_; ++i)
      for (int k = 0; k < w_.action_dim; ++k) {
        const float out = small_[i * small_stride_ + k];
        call.actions[(begin + i) * w_.action_dim + k] = w_.centre ? fma(w_.half_range[k], tanh(out), w_.centre[k]) : out;
      }
  }

  int slot(const Sequence& s, int position) const {
    const int at = s.first + position;
    return at < slots_ ? at : at - slots_;
  }
  float* token_of(const Sequence& s, int position) const {
    return rings_.tokens + (s.rollout * slots_ + slot(s, position)) * w_.d_model;
  }
  float* projection_of(const Sequence& s, int position) const {
    return rings_.projected + (s.rollout * slots_ + slot(s, position)) * 3 * w_.d_model;
  }
  // Keys and values [2][D] of a block.
  float* kept_of(const Sequence& s, int block, int position) const {
    if (block == 0) return projection_of(s, position) + w_.d_model;
    return rings_.kept[block - 1] + (s.rollout * slots_ + slot(s, position)) * 2 * w_.d_model;
  }
  float* last_row(float* rows, const Sequence& s) const { return rows + (s.begin + s.size - 1) * stride_; }

  // The group of rollouts `begin` and following whose tokens there is room for.
  void lay_out(const DecoderCall& call, int64_t begin, int64_t end, Sequence* sequences) {
    const int known = w_.predicts_returns ? 1 : 2;
    sequences_ = sequences;
    rows_ = 0;
    for (count_ = 0; begin + count_ < end; ++count_) {
      const int64_t i = count_, tokens = tokens_to_compute(w_, call.timesteps[begin + i]);
      if (rows_ + tokens > most_) return;
      Sequence& s = sequences_[i];
      s.rollout = call.rows ? call.rows[begin + i] : begin + i;
      s.timestep = call.timesteps[begin + i];
      const int64_t earliest = s.timestep < w_.context_len ? 0 : s.timestep - w_.context_len + 1;
      s.first = int(3 * (earliest % w_.context_len));
      s.count = int(3 * (s.timestep - earliest)) + known;
      s.size = int(tokens);
      s.fresh = known + 1 < s.count ? known + 1 : s.count;
      s.begin = rows_;
      rows_ += s.size;
    }
  }

  // A token of row i of y_ at `back` places before the window's end.
  void place_token(int64_t i, int back, int64_t timestep) {
    const Sequence& s = sequences_[i];
    float* row = last_row(x_, s) - back * stride_;
    norm_row(w_.embed_norm, w_.d_model, y_ + i * stride_, w_.timesteps + timestep * w_.d_model, row);
    copy_floats(token_of(s, s.count - 1 - back), row, w_.d_model);
  }

  void embed_known(const DecoderCall& call, int64_t begin) {
    linear(w_.embed_state, count_, call.states + begin * w_.state_dim, w_.state_dim, y_, stride_);
    for (int64_t i = 0; i < count_; ++i) place_token(i, 0, sequences_[i].timestep);
    if (!w_.predicts_returns) {
      linear(w_.embed_return, count_, call.returns + begin, 1, y_, stride_);
      for (int64_t i = 0; i < count_; ++i) place_token(i, 1, sequences_[i].timestep);
    }
    const int known = w_.predicts_returns ? 1 : 2;
    linear(w_.embed_action, count_, call.previous_actions + begin * w_.action_dim, w_.action_dim, y_, stride_);
    for (int64_t i = 0; i < count_; ++i) {
      const Sequence& s = sequences_[i];
      if (s.fresh > known) place_token(i, known, s.timestep - 1);
      for (int r = 0; r < s.size - s.fresh; ++r)
        copy_floats(x_ + (s.begin + r) * stride_, token_of(s, s.count - s.size + r), w_.d_model);
    }
  }

  // The predicted return becomes a token of its own behind the window.
  void append_return() {
    linear(w_.embed_return, count_, predicted_, kPanelWidth, y_, stride_);
    for (int64_t i = 0; i < count_; ++i) {
      Sequence& s = sequences_[i];
      ++s.count;
      s.size = s.fresh = 1;
      s.begin = i;
      place_token(i, 0, s.timestep);
    }
    rows_ = count_;
  }

  // Leaves the hidden state of each window's last token in the first rows of x_.
  void blocks() {
    for (int b = 0; b < w_.n_layer; ++b) block(b);
    if (w_.has_final_norm)
      for (int64_t r = 0; r < rows_; ++r) norm_row(w_.final_norm, w_.d_model, x_ + r * stride_, nullptr, x_ + r * stride_);
  }

  void block(int b) {
    const BlockWeights& w = w_.blocks[b];
    const bool last = b + 1 == w_.n_layer;
    b == 0 ? first_projections(w) : projections(w, b, last);
    if (last) keep_last_rows(b);
    for (int64_t i = 0; i < count_; ++i) {
      const Sequence& s = sequences_[i];
      attend(s, b, last ? i : s.begin, last ? 1 : s.size);
    }
    if (last) rows_ = count_;
    linear(w.out, rows_, mixed_, mixed_stride_, y_, stride_, rounded_);
    add_residual(w.norm_1);
    const float* in = x_;
    int64_t in_stride = stride_;
    if (w_.pre_norm) {
      for (int64_t r = 0; r < rows_; ++r)
        norm_row(w.norm_2, w_.d_model, x_ + r * stride_, nullptr, mixed_ + r * mixed_stride_);
      in = mixed_;
      in_stride = mixed_stride_;
    }
    for (int64_t r = 0; r < rows_; r += kMlpRows) {
      const int64_t rows = rows_ - r < kMlpRows ? rows_ - r : kMlpRows;
      linear(w.expand, rows, in + r * in_stride, in_stride, hidden_, hidden_stride_, rounded_);
      for (int64_t i = 0; i < rows * hidden_stride_; i += kLanes) {
        const vf z = load(hidden_ + i);
        store(hidden_ + i, w_.gelu ? z * normal_cdf(z) : select(z <= 0.f, vf{}, z));
      }
      linear(w.contract, rows, hidden_, hidden_stride_, y_ + r * stride_, stride_, rounded_);
    }
    add_residual(w.norm_2);
  }

  // x += y, with the norm after it where the norm comes after.
  void add_residual(const NormWeights& norm) {
    for (int64_t r = 0; r < rows_; ++r) {
      float *x = x_ + r * stride_, *y = y_ + r * stride_;
      if (w_.pre_norm)
        each_in_row(w_.d_model, [=](auto like, int i) DTAG_LAMBDA { put(x + i, get(x + i, like) + get(y + i, like)); });
      else
        norm_row(norm, w_.d_model, x, y, x);
    }
  }

  // Rows of x_ from `r` on, normalised into y_ where the norm comes first; gives the input of the projections.
  float* normed(const NormWeights& norm, int64_t r, int64_t rows) {
    if (!w_.pre_norm) return x_ + r * stride_;
    for (int64_t i = r; i < r + rows; ++i) norm_row(norm, w_.d_model, x_ + i * stride_, nullptr, y_ + i * stride_);
    return y_ + r * stride_;
  }

  // Of the first block, which depend on one token alone: made for new tokens, found in the ring for others.
  void first_projections(const BlockWeights& w) {
    for (int64_t i = 0; i < count_;) {
      // Neighbours that are all new go together.
      int64_t j = i + 1, fresh = sequences_[i].fresh;
      if (fresh == sequences_[i].size)
        for (; j < count_ && sequences_[j].fresh == sequences_[j].size; ++j) fresh += sequences_[j].fresh;
      const int64_t row = sequences_[i].begin + sequences_[i].size - sequences_[i].fresh;
      const float* in = normed(w.norm_1, row, fresh);
      linear(w.query, fresh, in, stride_, query_ + row * stride_, stride_, rounded_);
      linear(w.key_value, fresh, in, stride_, key_value_ + row * key_value_stride_, key_value_stride_, rounded_);
      i = j;
    }
    const int64_t d = w_.d_model;
    for (int64_t i = 0; i < count_; ++i) {
      const Sequence& s = sequences_[i];
      for (int r = 0; r < s.size; ++r) {
        float* kept = projection_of(s, s.count - s.size + r);
        float *query = query_ + (s.begin + r) * stride_, *key_value = key_value_ + (s.begin + r) * key_value_stride_;
        if (r < s.size - s.fresh) {
          copy_floats(query, kept, d);
          copy_floats(key_value, kept + d, 2 * d);
        } else {
          copy_floats(kept, query, d);
          copy_floats(kept + d, key_value, 2 * d);
        }
      }
    }
  }

  void projections(const BlockWeights& w, int b, bool last) {
    float* in = normed(w.norm_1, 0, rows_);
    linear(w.key_value, rows_, in, stride_, key_value_, key_value_stride_, rounded_);
    for (int64_t i = 0; i < count_; ++i) {
      const Sequence& s = sequences_[i];
      for (int r = 0; r < s.size; ++r)
        copy_floats(kept_of(s, b, s.count - s.size + r), key_value_ + (s.begin + r) * key_value_stride_, 2 * w_.d_model);
    }
    if (!last) return linear(w.query, rows_, in, stride_, query_, stride_, rounded_);
    // Only the last tokens are asked for: their rows go side by side, in keep_last_rows those of x_ too.
    for (int64_t i = 0; i < count_; ++i) move_row(last_row(in, sequences_[i]), in + i * stride_);
    linear(w.query, count_, in, stride_, query_, stride_, rounded_);
  }

  void keep_last_rows(int b) {
    for (int64_t i = 0; i < count_; ++i) {
      if (b == 0) move_row(last_row(query_, sequences_[i]), query_ + i * stride_);
      if (b == 0 || w_.pre_norm) move_row(last_row(x_, sequences_[i]), x_ + i * stride_);
    }
  }

  void move_row(const float* from, float* to) const {
    if (from != to) copy_floats(to, from, w_.d_model);
  }

  // The last `queries` tokens of a window, in rows `row` and following of query_ and mixed_, over all of it.
  void attend(const Sequence& s, int b, int64_t row, int queries) {
    const float scale = 1.f / sqrt(float(head_));
    for (int h = 0; h < w_.n_head; ++h) {
      const float* query = query_ + row * stride_ + h * head_;
      float* mixed = mixed_ + row * mixed_stride_ + h * head_;
      if (queries <= kFewQueries)
        attend_few(s, b, h, query, mixed, queries, scale);
      else
        attend_whole(s, h, query, mixed, scale);
    }
  }

  void attend_few(const Sequence& s, int b, int h, const float* query, float* mixed, int queries, float scale) {
    for (int q = 0; q < queries; ++q) {
      float *scores = scores_ + q * score_stride_, *out = mixed + q * mixed_stride_;
      const int visible = s.count - queries + q + 1;
      for (int j = 0; j < visible; ++j) scores[j] = dot_row(query + q * stride_, kept_of(s, b, j) + h * head_, head_);
      softmax_row(scores, visible, scale);
      each_in_row(head_, [=](auto like, int i) DTAG_LAMBDA { put(out + i, like); });
      for (int j = 0; j < visible; ++j) {
        const float* value = kept_of(s, b, j) + w_.d_model + h * head_;
        const float share = scores[j];
        each_in_row(head_, [=](auto like, int i) DTAG_LAMBDA {
          put(out + i, fma(spread<decltype(like)>(share), get(value + i, like), get(out + i, like)));
        });
      }
    }
  }

  // All tokens of a window, whose keys and values are in key_value_.
  void attend_whole(const Sequence& s, int h, const float* query, float* mixed, float scale) {
    const float* key = key_value_ + s.begin * key_value_stride_ + h * head_;
    const float* value = key + w_.d_model;
    for (int j0 = 0; j0 < s.count; j0 += kPanelWidth) {
      float* panel = keys_ + int64_t(j0) * head_;
      const int here = s.count - j0 < kPanelWidth ? s.count - j0 : kPanelWidth;
      for (int d = 0; d < head_; ++d)
        for (int j = 0; j < kPanelWidth; ++j)
          panel[d * kPanelWidth + j] = j < here ? key[(j0 + j) * key_value_stride_ + d] : 0.f;
      // Queries before the panel see none of it.
      panel_product(s.count - j0, query + j0 * stride_, stride_, head_, panel, kPanelWidth, nullptr,
                    scores_ + j0 * score_stride_ + j0, score_stride_);
    }
    for (int r0 = 0; r0 < s.count; r0 += kBlock) {
      const int rows = s.count - r0 < kBlock ? s.count - r0 : kBlock, visible = r0 + rows;
      for (int r = r0; r < visible; ++r) {
        float* scores = scores_ + r * score_stride_;
        softmax_row(scores, r + 1, scale);
        for (int j = r + 1; j < visible; ++j) scores[j] = 0.f;
      }
      // Columns behind the head's own are numbers of the next head, which overwrites them in its turn.
      for (int c = 0; c < head_; c += kPanelWidth)
        panel_product(rows, scores_ + r0 * score_stride_, score_stride_, visible, value + c, key_value_stride_, nullptr,
                      mixed + r0 * mixed_stride_ + c, mixed_stride_);
    }
  }

  const DecoderWeights& w_;
  const DecoderRings& rings_;
  int slots_, head_;
  int64_t stride_, key_value_stride_, mixed_stride_, hidden_stride_, score_stride_, small_stride_;
  int64_t count_ = 0, rows_ = 0, most_ = 0, scratch_bytes_ = 0;  // most_: tokens of a group
  Sequence *all_ = nullptr, *sequences_ = nullptr;
  float *x_, *y_, *query_, *key_value_, *mixed_, *seen_, *hidden_, *scores_, *keys_, *small_, *predicted_;
  char* rounded_ = nullptr;
};

}  // namespace dtag::DTAG_ISA
