// A critic bound to a way of ascending it: packed weights, the choice of kernel, and the call.
#pragma once
#include <memory>
#include <optional>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/pack.h"
#include "refine/params.h"
#include "refine/program.h"

namespace dtag {

enum class Precision { fp32, bf16 };

class Plan {
 public:
  // Several settings are variants, among which the rows of every call choose. `only`: use this kernel whatever the batch size
  // (tests). Throws std::invalid_argument.
  Plan(Program program, std::vector<Settings> settings, std::vector<float> low, std::vector<float> high, Precision precision,
       const Kernels& kernels, std::optional<KernelKind> only = {});

  // Takes the numbers of a program of the same structure; calls under way finish with the old ones.
  void repack(Program program);

  // The work is split in two so that a binding can do the first part under its lock: prepare() may pack weights and is
  // not to be called from two threads at once; run() may.
  class Prepared {
   public:
    void run(const Call& call) const;

   private:
    friend class Plan;
    std::shared_ptr<const Packing> packing_;
    const Plan* plan_ = nullptr;
    bool tiles_ = false;
    int allowed_ = 1, threads_ = 1, team_ = 1, tile_rows_ = 0, chunk_ = 1;
  };
  // threads() is asked only when more than one could be of use.
  template <class Threads>
  Prepared prepare(int64_t rows, int64_t steps, Threads threads) {
    return prepare_with(rows, steps, worth_threads(rows, steps) ? threads() : 1);
  }

  int state_dim() const { return program_.state_dim; }
  int action_dim() const { return program_.action_dim; }
  const Kernels& kernels() const { return kernels_; }
  // Which kernel a call would take: for explain() and tests.
  const char* kernel_for(int64_t rows, int64_t steps, int threads) const;

 private:
  bool worth_threads(int64_t rows, int64_t steps) const;
  Prepared prepare_with(int64_t rows, int64_t steps, int threads);
  struct Shape shape(int64_t rows, int64_t steps, int threads) const;

  Program program_;
  std::vector<Settings> settings_;
  std::vector<float> low_, high_;
  Precision precision_;
  const Kernels& kernels_;
  std::optional<KernelKind> only_;
  int64_t weights_ = 0, units_ = 0;
  bool skips_ = true, relu_alone_ = true, matrix_tiles_ = false;
  std::shared_ptr<const Packing> rows_, tiles_;  // made when first needed
};

}  // namespace dtag
