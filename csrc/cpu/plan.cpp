#include "cpu/plan.h"

#include <atomic>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "cpu/heuristics.h"
#include "cpu/scratch.h"
#include "cpu/thread_pool.h"

namespace dtag {
namespace {

void fill_nan(float* p, int64_t count) {
  if (p) std::fill(p, p + count, std::numeric_limits<float>::quiet_NaN());
}

// out[b] = the candidate of greatest finite F, the first on ties, candidate 0 when none is finite.
void pick_candidates(const Call& call, const Job& job, int dims) {
  for (int64_t b = 0; b < call.batch; ++b) {
    const float* q = job.candidate_q + b * call.candidates;
    const float* cost = job.candidate_cost ? job.candidate_cost + b * call.candidates : nullptr;
    const auto finite = [&](int m) { return std::isfinite(cost ? q[m] - cost[m] : q[m]); };
    const auto higher = [&](int m, int than) {  // as in refine/ascent.h
      return cost ? q[m] - q[than] > cost[m] - cost[than] : q[m] > q[than];
    };
    int best = 0;
    for (int m = 1; m < call.candidates; ++m)
      if (finite(m) && (!finite(best) || higher(m, best))) best = m;
    const float* from = job.candidate_out + (b * call.candidates + best) * dims;
    std::copy(from, from + dims, call.out + b * dims);
    if (call.best_candidate) call.best_candidate[b] = best;
  }
}

struct Shared {
  const Job* job;
  const Kernels* kernels;
  int64_t rows;
  bool tiles;
  int tile_rows, chunk, team;
  float* exchange = nullptr;
  std::atomic<int64_t> next{0};
  std::atomic<bool> out_of_memory{false};
  Barrier barrier{};
};

// The calling thread's scratch for this job, or null and a flag for the caller to raise.
float* job_scratch(Shared& s) {
  const Packed& packed = *s.job->packed;
  const int64_t bytes = s.tiles ? s.kernels->tile_scratch(packed, s.tile_rows) : s.kernels->row_scratch(packed);
  try {
    return scratch(size_t(bytes), 0);
  } catch (const std::bad_alloc&) {
    s.out_of_memory.store(true);
    return nullptr;
  }
}

void run_team(void* context, int rank) {
  auto& s = *static_cast<Shared*>(context);
  float* memory = job_scratch(s);
  if (s.team > 1) Barrier::meet(&s.barrier, s.team);  // all have their scratch, or all give up
  if (s.out_of_memory.load()) return;
  s.kernels->run_rows(*s.job, 0, s.rows, memory, Team{s.team, rank, s.exchange, Barrier::meet, &s.barrier});
}

// Takes chunks of rows until none is left. A chunk's results do not depend on who takes it.
void run_chunks(void* context, int) {
  auto& s = *static_cast<Shared*>(context);
  float* memory = job_scratch(s);
  if (!memory) return;
  for (;;) {
    const int64_t begin = s.next.fetch_add(s.chunk, std::memory_order_relaxed);
    if (begin >= s.rows) return;
    const int64_t end = std::min(begin + s.chunk, s.rows);
    if (s.tiles)
      s.kernels->run_tile(*s.job, begin, end, s.tile_rows, memory);
    else
      s.kernels->run_rows(*s.job, begin, end, memory, Team{});
  }
}

}  // namespace

Plan::Plan(Program program, std::vector<Settings> settings, std::vector<float> low, std::vector<float> high, Precision precision,
           const Kernels& kernels, std::optional<KernelKind> only)
    : program_(std::move(program)), settings_(std::move(settings)), low_(std::move(low)), high_(std::move(high)),
      precision_(precision), kernels_(kernels), only_(only) {
  program_.validate();
  const size_t dims = size_t(program_.action_dim);
  if (low_.size() != high_.size() || (!low_.empty() && low_.size() != dims))
    throw std::invalid_argument("low, high: expected " + std::to_string(dims) + " numbers each, or none, got " +
                                std::to_string(low_.size()) + " and " + std::to_string(high_.size()));
  for (size_t k = 0; k < low_.size(); ++k)
    if (!(low_[k] <= high_[k])) throw std::invalid_argument("low, high: low must not exceed high and neither be NaN");
  if (settings_.empty() || settings_.size() > size_t(kMaxVariants))
    throw std::invalid_argument("variants: expected 1 to " + std::to_string(kMaxVariants) + " settings, got " +
                                std::to_string(settings_.size()));
  for (Settings& s : settings_) {
    s.low = low_.empty() ? nullptr : low_.data();
    s.high = low_.empty() ? nullptr : high_.data();
    if (s.reduce == Reduce::member && (s.member < 0 || size_t(s.member) >= program_.members.size()))
      throw std::invalid_argument("member: expected one of " + std::to_string(program_.members.size()) + ", got " +
                                  std::to_string(s.member));
  }
  for (const auto& stages : program_.members)
    for (size_t l = 0; l < stages.size(); ++l) {
      const int in = l == 0 ? program_.action_dim : stages[l].in;
      weights_ += int64_t(in) * stages[l].out;
      units_ += int64_t(stages[l].out) * (l == 0 ? 2 : 1);
      for (const PostOp& op : stages[l].post)
        if (op.is_norm || op.kind != Activation::relu) {
          units_ += stages[l].out;
          relu_alone_ = false;
        }
      const bool relu = !stages[l].post.empty() && !stages[l].post.back().is_norm &&
                        stages[l].post.back().kind == Activation::relu;
      if (l + 1 < stages.size() && !relu) skips_ = false;
      if (takes_bf16(stages[l], l == 0)) matrix_tiles_ = precision == Precision::bf16 && kernels.geometry.tiles;
    }
}

void Plan::repack(Program program) {
  program.validate();
  if (!program_.same_structure(program))
    throw std::invalid_argument("repack: expected a program of the same structure; make a new plan for another");
  program_ = std::move(program);
  rows_.reset();
  tiles_.reset();
}

Shape Plan::shape(int64_t rows, int64_t steps, int threads) const {
  return {kernels_.geometry, int(program_.members.size()), rows, steps, weights_, units_, skips_,
          skips_ && relu_alone_, matrix_tiles_, std::max(threads, 1), ThreadPool::shares_threads()};
}

bool Plan::worth_threads(int64_t rows, int64_t steps) const { return may_use_threads(shape(rows, steps, 1)); }

const char* Plan::kernel_for(int64_t rows, int64_t steps, int threads) const {
  const bool tiles = only_ ? *only_ == KernelKind::tiles : choose(shape(rows, steps, threads)).tiles;
  return tiles ? "tiles" : "rows";
}

Plan::Prepared Plan::prepare_with(int64_t rows, int64_t steps, int threads) {
  const Choice choice = choose(shape(rows, steps, threads), only_ ? (*only_ == KernelKind::tiles ? 1 : 0) : -1);
  auto& packing = choice.tiles ? tiles_ : rows_;
  if (!packing)
    packing = std::make_shared<Packing>(program_, kernels_.geometry, choice.tiles ? KernelKind::tiles : KernelKind::rows,
                                        precision_ == Precision::bf16);
  Prepared p;
  p.packing_ = packing;
  p.plan_ = this;
  p.tiles_ = choice.tiles;
  p.allowed_ = threads;
  p.threads_ = choice.threads;
  p.team_ = choice.team;
  p.tile_rows_ = choice.tile_rows;
  p.chunk_ = choice.chunk;
  return p;
}

void Plan::Prepared::run(const Call& call) const {
  const int dims = plan_->action_dim();
  const int64_t rows = call.batch * call.candidates;
  if (rows == 0) return;
  if (plan_->settings_.size() > 1 && !call.row_variants)
    throw std::invalid_argument("row_variants: expected which of the plan's settings each row has");
  Job job;
  job.packed = &packing_->view();
  job.settings = plan_->settings_.data();
  job.settings_count = int32_t(plan_->settings_.size());
  job.call = &call;
  if (call.candidates > 1) {
    const bool prior = call.prior_weight_values || call.prior_weight != 0.f;
    float* memory = scratch(size_t(rows) * size_t(dims + (prior ? 2 : 1)) * 4, 1);
    job.candidate_out = memory;
    job.candidate_q = memory + rows * dims;
    if (prior) job.candidate_cost = job.candidate_q + rows;
  } else if (call.best_candidate) {
    std::fill(call.best_candidate, call.best_candidate + call.batch, 0);
  }
  const int64_t points = (int64_t(call.steps) + 1) * rows;
  fill_nan(call.trace_q, points);
  fill_nan(call.trace_actions, points * dims);
  fill_nan(call.trace_grad, points * dims);

  Shared shared{&job, &plan_->kernels_, rows, tiles_, tile_rows_, chunk_, team_};
  std::vector<float> exchange;
  if (team_ > 1) {
    exchange.resize(2 * size_t(job.packed->member_count) * size_t(dims + 1));
    shared.exchange = exchange.data();
    if (!ThreadPool::instance().run(team_, allowed_, true, run_team, &shared)) {
      shared.team = 1;
      run_team(&shared, 0);
    }
  } else if (threads_ == 1 || !ThreadPool::instance().run(threads_, allowed_, false, run_chunks, &shared)) {
    run_chunks(&shared, 0);
  }
  if (shared.out_of_memory.load()) throw std::bad_alloc();
  if (call.candidates > 1) pick_candidates(call, job, dims);
}

}  // namespace dtag
