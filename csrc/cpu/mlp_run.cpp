#include "cpu/mlp_run.h"

#include <algorithm>
#include <atomic>

#include "cpu/heuristics.h"
#include "cpu/scratch.h"
#include "cpu/thread_pool.h"

namespace dtag {
namespace {

// Rows of a member that a thread takes at a time: their hidden layers stay in its second-level cache.
constexpr int64_t kMostRows = 256;
// Every thread that takes rows puts the weights of their member in order first, which is worth it for so many.
constexpr int64_t kFewestRows = 48;

struct Work {
  const MlpCall* call;
  const MlpGradients* gradients;
  const Kernels* kernels;
  int64_t rows = 0, parts = 0;  // a member's rows in parts of `rows`
  std::atomic<int64_t> next{0};
  std::atomic<bool> out_of_memory{false};
};

template <class Body>
void each_part(Work& w, Body body) {
  try {
    for (int64_t i; (i = w.next.fetch_add(1, std::memory_order_relaxed)) < w.parts * w.call->members;) {
      const int64_t begin = i % w.parts * w.rows, end = std::min(begin + w.rows, w.call->rows);
      body(int(i / w.parts), begin, end, scratch(size_t(w.kernels->mlp.scratch(*w.call, end - begin)), 0));
    }
  } catch (const std::bad_alloc&) {
    w.out_of_memory.store(true);
  }
}

void forward_parts(void* context, int) {
  auto& w = *static_cast<Work*>(context);
  each_part(w, [&](int member, int64_t begin, int64_t end, float* memory) {
    w.kernels->mlp.forward(*w.call, member, begin, end, memory);
  });
}

void backward_parts(void* context, int) {
  auto& w = *static_cast<Work*>(context);
  each_part(w, [&](int member, int64_t begin, int64_t end, float* memory) {
    w.kernels->mlp.backward(*w.call, *w.gradients, member, begin, end, memory);
  });
}

void weight_pieces(void* context, int) {
  auto& w = *static_cast<Work*>(context);
  const int64_t pieces = w.kernels->mlp.pieces(*w.call);
  for (int64_t i; (i = w.next.fetch_add(1, std::memory_order_relaxed)) < pieces * w.call->members;)
    w.kernels->mlp.weights(*w.call, *w.gradients, int(i / pieces), int(i % pieces));
}

int64_t multiply_adds(const MlpCall& call) {
  int64_t weights = 0;
  for (int l = 0; l < call.layers; ++l) weights += int64_t(call.widths[l]) * call.widths[l + 1];
  return weights * call.members * call.rows;
}

int worth(const MlpCall& call, int threads) {
  Shape shape;
  shape.threads = threads;
  shape.shared = ThreadPool::shares_threads();
  return multiply_adds(call) < thread_work(shape) ? 1 : threads;
}

void run(Work& work, int64_t tasks, int threads, void (*body)(void*, int)) {
  work.next.store(0);
  const int wanted = int(std::min<int64_t>(threads, tasks));
  if (wanted <= 1 || !ThreadPool::instance().run(wanted, threads, false, body, &work)) body(&work, 0);
  if (work.out_of_memory.load()) throw std::bad_alloc();
}

void write_inputs(const MlpCall& call, int64_t width) {
  for (int64_t r = 0; r < call.rows; ++r) {
    const float* x = call.x.at + r * call.x.stride;
    float* to = call.in + r * width;
    if (call.mean) {
      for (int k = 0; k < call.x.width; ++k) to[k] = (x[k] - call.mean[k]) / call.std[k];
    } else {
      std::copy_n(x, call.x.width, to);
    }
    std::copy_n(call.extra.at + r * call.extra.stride, call.extra.width, to + call.x.width);
    std::fill(to + call.widths[0], to + width, 0.f);
  }
}

// Equal parts, enough for all threads where rows are many.
void divide(Work& work, int threads) {
  const MlpCall& call = *work.call;
  int64_t parts = std::max(ceil_div(call.rows, kMostRows), ceil_div(threads, call.members));
  parts = std::max<int64_t>(1, std::min(parts, call.rows / kFewestRows));
  const int64_t block = work.kernels->geometry.block;
  work.rows = ceil_div(ceil_div(call.rows, parts), block) * block;
  work.parts = ceil_div(call.rows, work.rows);
}

}  // namespace

int mlp_padded(int width, const Kernels& kernels) {
  return int(ceil_div(width, kernels.mlp.panel_width)) * kernels.mlp.panel_width;
}

int64_t mlp_hidden_size(const MlpCall& call, const Kernels& kernels) {
  int64_t width = 0;
  for (int l = 1; l < call.layers; ++l) width += mlp_padded(call.widths[l], kernels);
  return width * call.members * call.rows;
}

void mlp_forward(const MlpCall& call, const Kernels& kernels, int threads) {
  if (call.x.at) write_inputs(call, mlp_padded(call.widths[0], kernels));
  threads = worth(call, threads);
  Work work{&call, nullptr, &kernels};
  divide(work, threads);
  run(work, work.parts * call.members, threads, forward_parts);
}

void mlp_backward(const MlpCall& call, const MlpGradients& wanted, const Kernels& kernels, int threads) {
  threads = worth(call, threads);
  MlpGradients gradients = wanted;
  if (gradients.scales) gradients.sums = scratch(size_t(kernels.mlp.sums_size(call)) * sizeof(float), 1);
  Work work{&call, &gradients, &kernels};
  divide(work, threads);
  run(work, work.parts * call.members, threads, backward_parts);
  if (gradients.weights) run(work, int64_t(kernels.mlp.pieces(call)) * call.members, threads, weight_pieces);
}

}  // namespace dtag
