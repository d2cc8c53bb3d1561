// Random critics, options and calls through dtag::Plan, for a build with AddressSanitizer and UndefinedBehaviorSanitizer.
// Arrays are exactly as long as the call says, so that any step outside one is found. What is checked besides: results
// are in the box, equal Q bounds hold, the row and the tile kernel agree, and a second run, which finds other things in the
// scratch, gives the same bits.
//
//   fuzz_plan [cases = 300] [seed = 1] [isa, default: every one this machine runs and the emulated ones]
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/heuristics.h"
#include "cpu/plan.h"
#include "cpu/scratch.h"

// The activations, one number at a time.
#define DTAG_ISA fuzz
#define DTAG_INLINE static inline
#define DTAG_MEMBER inline
#define DTAG_FUNCTION static
#define DTAG_LAMBDA
#include "refine/scalar.h"
#include "refine/activations.h"

using namespace dtag;

namespace {

std::mt19937_64 engine;

int below(int n) { return int(engine() % uint64_t(n)); }
float uniform() { return float(double(engine() >> 11) * 0x1p-53 * 2. - 1.); }
template <class T>
T one_of(std::initializer_list<T> choices) { return choices.begin()[below(int(choices.size()))]; }

// Of exactly n numbers on the heap, so that the sanitizer guards both ends.
struct Array {
  explicit Array(int64_t n) : size(n), data(new float[size_t(n)]) {
    for (int64_t i = 0; i < n; ++i) data[size_t(i)] = uniform();
  }
  int64_t size;
  std::unique_ptr<float[]> data;
  float* get() const { return data.get(); }
};

int random_width() {
  switch (below(6)) {
    case 0: return 1 + below(4);
    case 1: return one_of({15, 16, 17, 31, 32, 33, 64});
    case 2: return below(8) ? 48 : 257;
    default: return 1 + below(70);
  }
}

Program random_program() {
  Program program;
  program.state_dim = one_of({1, 3, 17, 40});
  program.action_dim = one_of({1, 2, 6, 9, 16, 35});
  const int members = 1 + below(4);
  for (int m = 0; m < members; ++m) {
    auto& stages = program.members.emplace_back();
    int in = program.state_dim + program.action_dim;
    const int depth = 1 + below(4);
    for (int l = 0; l < depth; ++l) {
      Stage s;
      s.in = in;
      s.out = l + 1 == depth ? 1 : random_width();
      const float scale = std::sqrt(3.f / float(in));
      for (int i = 0; i < s.in * s.out; ++i) s.weight.push_back(uniform() * scale);
      for (int i = 0; i < s.out; ++i) s.bias.push_back(uniform() * 0.3f);
      if (below(40) == 0) s.weight[size_t(below(s.in * s.out))] = one_of({INFINITY, NAN, 3e38f});
      for (int k = l + 1 == depth ? 0 : below(4); k > 0; --k) {
        PostOp op;
        op.is_norm = below(4) == 0;
        op.p0 = op.is_norm ? 1e-5f : 0.5f;
        op.p1 = 20.f;
        op.kind = below(2) ? Activation::relu : Activation(below(10));
        for (int i = 0; op.is_norm && i < s.out; ++i) {
          op.scale.push_back(1.f + uniform());
          op.shift.push_back(uniform());
        }
        s.post.push_back(op);
      }
      in = s.out;
      stages.push_back(std::move(s));
    }
  }
  return program;
}

Settings random_settings() {
  Settings s;
  s.optimizer = one_of({Optimizer::sgd, Optimizer::adam, Optimizer::rmsprop});
  s.momentum = one_of({0.f, 0.9f});
  s.nesterov = below(2);
  s.beta2 = one_of({0.999, 0.5});
  s.gradient = one_of({Gradient::raw, Gradient::unit, Gradient::clip_norm});
  s.clip = 0.3f;
  s.radius_norm = one_of({Radius::none, Radius::inf, Radius::l2});
  s.radius = one_of({0.f, 0.2f});
  s.select = one_of({Select::best, Select::last});
  s.reduce = one_of({Reduce::min, Reduce::max, Reduce::mean});
  return s;
}

void require(bool holds, const char* what) {
  if (!holds) throw std::runtime_error(what);
}

// Adds in double what the kernels add in float32, each in an order of its own.
struct Sum {
  double above = 0., below = 0., not_finite = 0.;
  void add(double term) { (!std::isfinite(term) ? not_finite : term > 0. ? above : below) += term; }
  float value() const { return float(above + below + not_finite); }
  double size() const { return above - below; }
  // Terms of one sign leave the range of float32 and there are others: some orders give infinity or NaN, some do not. The
  // bounds leave room for the rounding of float32 and of bf16.
  bool depends_on_order() const {
    const double most = std::max(above, -below);
    const bool others = (above > 0. && below < 0.) || not_finite != 0.;
    return most > 0.99 * FLT_MAX && (others || most < 1.01 * FLT_MAX);
  }
};

// x becomes its LayerNorm; true if a sum on the way depends on its order.
bool normalise(const PostOp& op, std::vector<float>& x) {
  Sum sum, squares;
  for (float v : x) sum.add(v);
  const float mean = sum.value() / float(x.size());
  for (float& v : x) v -= mean;
  for (float v : x) squares.add(double(v) * v);
  const float rstd = 1.f / std::sqrt(squares.value() / float(x.size()) + op.p0);
  for (size_t u = 0; u < x.size(); ++u) x[u] = x[u] * rstd * op.scale[u] + op.shift[u];
  return sum.depends_on_order() || squares.depends_on_order();
}

// How far two kernels may part over a member's Q of x, [state, action], each within `bound` of the terms it adds up: `bound`
// times those of Q. Infinity where a sum on the way depends on its order, or where a weight that is huge or infinite
// multiplies a number that rounding may carry across zero.
double allowed(const std::vector<Stage>& stages, std::vector<float> x, float bound) {
  double size = 0.;
  for (const Stage& s : stages) {
    std::vector<float> y;
    float largest = 0.f;
    for (float v : x) largest = std::max(largest, std::fabs(v));
    for (int j = 0; j < s.out; ++j) {
      Sum sum;
      sum.add(s.bias[size_t(j)]);
      for (int i = 0; i < s.in; ++i) {
        const float w = s.weight[size_t(j * s.in + i)], v = x[size_t(i)];
        if (std::fabs(w) > 1e30f && std::fabs(v) < bound * largest) return INFINITY;
        sum.add(double(w) * v);
      }
      if (sum.depends_on_order()) return INFINITY;
      size = sum.size();
      y.push_back(sum.value());
    }
    for (const PostOp& op : s.post) {
      if (op.is_norm && normalise(op, y)) return INFINITY;
      if (op.is_norm) continue;
      fuzz::with_activation(op.kind, [&]<Activation kind>() {
        for (float& v : y) {
          float slope;
          fuzz::activate<kind>(v, op.p0, op.p1, v, slope);
        }
      });
    }
    x = std::move(y);
  }
  return bound * size;
}

// Fills the scratch that this thread's calls with up to `rows` rows will use.
class Poison {
 public:
  Poison(const Program& program, Precision precision, const Kernels& kernels, int64_t rows) {
    const bool bf16 = precision == Precision::bf16;
    const int strip = kernels.geometry.lanes * kernels.geometry.vectors;
    const int tile_rows = int(std::min(ceil_div(rows, strip) * strip, kMaxTileRows));
    const Packing by_row(program, kernels.geometry, KernelKind::rows, bf16);
    const Packing by_tile(program, kernels.geometry, KernelKind::tiles, bf16);
    bytes_ = size_t(std::max(kernels.row_scratch(by_row.view()), kernels.tile_scratch(by_tile.view(), tile_rows)));
  }
  void fill(int byte) const { __builtin_memset(scratch(bytes_, 0), byte, bytes_); }

 private:
  size_t bytes_;
};

struct Result {
  Array out, q_first, q_best, trace_actions, trace_q, trace_grad;
  std::vector<int32_t> index, candidate;
  Result(int64_t b, int64_t m, int64_t a, int64_t n)
      : out(b * a), q_first(b * m), q_best(b * m), trace_actions(n * b * m * a), trace_q(n * b * m),
        trace_grad(n * b * m * a), index(size_t(b * m)), candidate(size_t(b)) {}
};

Result call(Plan& plan, Call c, bool details, int threads) {
  Result r(c.batch, c.candidates, plan.action_dim(), c.steps + 1);
  c.out = r.out.get();
  if (details) {
    c.q_first = r.q_first.get();
    c.q_best = r.q_best.get();
    c.best_index = r.index.data();
    c.best_candidate = r.candidate.data();
    c.trace_actions = r.trace_actions.get();
    c.trace_q = r.trace_q.get();
    c.trace_grad = r.trace_grad.get();
  }
  plan.prepare(c.batch * c.candidates, c.steps, [&] { return threads; }).run(c);
  return r;
}

void one_case(const Kernels& kernels) {
  const Program program = random_program();
  std::vector<Settings> settings{random_settings()};
  while (below(3) == 0) settings.push_back(random_settings());
  for (Settings& s : settings)
    if (settings.size() > 1 && below(4) == 0) {
      s.reduce = Reduce::member;
      s.member = below(int(program.members.size()));
    }
  const int dims = program.action_dim;
  std::vector<float> low, high;
  if (below(4)) {
    low.assign(size_t(dims), -0.8f);
    high.assign(size_t(dims), 0.9f);
  }
  const auto precision = one_of({Precision::fp32, Precision::bf16});
  Plan rows(program, settings, low, high, precision, kernels, KernelKind::rows);
  Plan tiles(program, settings, low, high, precision, kernels, KernelKind::tiles);

  Call c;
  c.batch = 1 + (below(3) ? below(5) : below(90));
  c.candidates = 1 + (below(3) ? 0 : below(4));
  c.steps = below(5);
  c.state_stride = program.state_dim + below(3);
  const Array states(c.state_stride * (c.batch - 1) + program.state_dim), actions(c.batch * c.candidates * dims);
  if (below(8) == 0) states.get()[below(int(states.size))] = one_of({INFINITY, NAN, 1e30f});
  if (below(8) == 0) actions.get()[below(int(actions.size))] = one_of({INFINITY, NAN, -0.f});
  c.states = states.get();
  c.actions = actions.get();
  std::vector<int32_t> row_steps;
  if (below(3) == 0) {
    for (int64_t b = 0; b < c.batch; ++b) row_steps.push_back(below(c.steps + 1));
    c.row_steps = row_steps.data();
  }
  const bool per_row = below(2), per_dim = below(2);
  const Array lr((per_row ? c.batch : 1) * (per_dim ? dims : 1));
  for (int64_t i = 0; i < lr.size; ++i) lr.get()[i] = std::fabs(lr.get()[i]) * 0.1f;
  c.lr_values = below(2) ? lr.get() : nullptr;
  c.lr_row_stride = per_row ? (per_dim ? dims : 1) : 0;
  c.lr_dim_stride = per_dim;
  c.lr = 0.05f;
  const Array units((per_row ? c.batch : 1) * (per_dim ? dims : 1)), radius(c.batch);
  for (int64_t i = 0; i < units.size; ++i) units.get()[i] = below(4) ? std::fabs(units.get()[i]) : one_of({0.f, 1.f, 1e-30f, 1e30f});
  for (int64_t i = 0; i < radius.size; ++i) radius.get()[i] = below(4) ? std::fabs(radius.get()[i]) : one_of({0.f, INFINITY});
  c.scale_values = below(3) ? nullptr : units.get();
  c.scale_row_stride = c.lr_row_stride;
  c.scale_dim_stride = c.lr_dim_stride;
  c.scale = one_of({0.f, 0.5f, 1.f, 1.f});
  c.radius_values = below(3) ? nullptr : radius.get();
  std::vector<int32_t> variants;
  for (int64_t b = 0; b < c.batch; ++b) variants.push_back(below(int(settings.size())));
  c.row_variants = settings.size() > 1 ? variants.data() : nullptr;
  const Array mean((per_row ? c.batch : 1) * dims), weight(c.batch);
  for (int64_t i = 0; i < weight.size; ++i) weight.get()[i] = below(4) ? std::fabs(weight.get()[i]) : one_of({0.f, 1e30f});
  c.prior_mean_values = below(2) ? nullptr : mean.get();
  c.prior_mean_row_stride = per_row ? dims : 0;
  c.prior_mean_dim_stride = 1;
  c.prior_mean = one_of({0.f, 0.5f});
  c.prior_weight_values = below(3) ? nullptr : weight.get();
  c.prior_weight = one_of({0.f, 0.f, 0.5f, 1e30f});

  // Q - F of an action of state b, in double.
  const auto cost = [&](int64_t b, const float* action) {
    const double w = c.prior_weight_values ? c.prior_weight_values[b] : c.prior_weight;
    double sum = 0.;
    for (int k = 0; k < dims; ++k) {
      const double unit = c.scale_values ? c.scale_values[b * c.scale_row_stride + k * c.scale_dim_stride] : c.scale;
      const double center = c.prior_mean_values ? c.prior_mean_values[b * c.prior_mean_row_stride + k] : c.prior_mean;
      const double far = unit > 0. ? (action[k] - center) / unit : 0.;
      sum += far * far;
    }
    return w > 0. ? w * sum / dims : 0.;
  };

  const Poison poison(program, precision, kernels, c.batch * c.candidates);
  for (Plan* plan : {&rows, &tiles}) {
    poison.fill(0xff);  // NaN
    const Result first = call(*plan, c, true, 1);
    poison.fill(0x3f);
    const Result again = call(*plan, c, false, 1 + below(3));
    for (int64_t i = 0; i < first.out.size; ++i) {
      const float x = first.out.get()[i], y = again.out.get()[i];
      require(__builtin_memcmp(&x, &y, 4) == 0, "a second run gave other bits");
      require(low.empty() || !(x < low[0] || x > high[0]), "a result is outside the box");
    }
    for (int64_t i = 0; i < first.q_best.size; ++i) {
      const float q = first.q_best.get()[i], start = first.q_first.get()[i];
      require(first.index[size_t(i)] >= 0 && first.index[size_t(i)] <= c.steps, "best_index is out of range");
      const float *actions_0 = first.trace_actions.get() + i * dims,
                  *best = actions_0 + first.index[size_t(i)] * c.batch * c.candidates * dims;
      const double gain = double(q) - start, loss = cost(i / c.candidates, best) - cost(i / c.candidates, actions_0);
      const double rounding = loss == 0. ? 0. : 1e-4 * (std::fabs(q) + std::fabs(start) + cost(i / c.candidates, actions_0));
      require(settings[size_t(variants[size_t(i / c.candidates)])].select == Select::last ||
                  !std::isfinite(start - cost(i / c.candidates, actions_0)) ||
                  gain - loss >= -rounding, "F became worse");
    }
  }
  // At a_0, before rounding can part them, the kernels agree.
  const Result a = call(rows, c, true, 1), b = call(tiles, c, true, 1);
  const float bound = precision == Precision::bf16 ? 3e-2f : 1e-4f;
  const auto agree = [&](int64_t i) {
    const double x = a.q_first.get()[i], y = b.q_first.get()[i];
    if ((std::isnan(x) && std::isnan(y)) || x == y || std::fabs(x - y) <= bound * std::max(std::fabs(x), 1e-3)) return true;
    const float* state = c.states + i / c.candidates * c.state_stride;
    std::vector<float> input(state, state + program.state_dim);
    input.insert(input.end(), a.trace_actions.get() + i * dims, a.trace_actions.get() + (i + 1) * dims);
    const Settings& s = settings[size_t(variants[size_t(i / c.candidates)])];
    double most = 0.;
    for (size_t m = 0; m < program.members.size(); ++m)
      if (s.reduce != Reduce::member || int(m) == s.member) most = std::max(most, allowed(program.members[m], input, bound));
    return most == INFINITY || std::fabs(x - y) <= most;
  };
  for (int64_t i = 0; i < a.q_first.size; ++i) require(agree(i), "the kernels disagree on Q");
  rows.repack(program);
  tiles.repack(program);
  const Result c2 = call(rows, c, false, 1);
  require(__builtin_memcmp(c2.out.get(), a.out.get(), size_t(a.out.size) * 4) == 0, "repacking changed the result");
}

}  // namespace

int main(int argc, char** argv) {
  const int cases = argc > 1 ? std::atoi(argv[1]) : 300;
  const uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1;
  std::vector<std::string> isas = runnable_isas();
  isas.insert(isas.end(), {"emulated512", "emulated512bf16", "emulated512amx"});
  if (argc > 3) isas = {argv[3]};
  for (const auto& isa : isas)
    for (int i = 0; i < cases; ++i) {
      engine.seed(seed * 1000003 + uint64_t(i));
      try {
        one_case(kernels_of(isa));
      } catch (const std::exception& error) {
        std::fprintf(stderr, "%s, seed %llu, case %d: %s\n", isa.c_str(), (unsigned long long)seed, i, error.what());
        return 1;
      }
    }
  std::printf("%d cases on each of", cases);
  for (const auto& isa : isas) std::printf(" %s", isa.c_str());
  std::printf("\n");
}
