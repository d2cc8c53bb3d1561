// What a launch on the host stops at.
#pragma once
#include <stdexcept>
#include <string>

namespace dtag::simt {

enum class FaultKind {
  launch,             // a shape that cannot be launched
  barrier,            // not reached by all: a thread left, or nobody can go on
  divergence,         // threads that must meet are in different collectives
  unwritten,          // a read of shared memory nobody has written
  race,               // two accesses, one of them a write, that nothing orders
  bounds,             // outside the part of shared memory the pointer was taken from
  alignment,
  foreign_block,      // another block's shared memory used like the own
  async_copy,         // a word in flight was touched, or a copy was never waited for
  uninitialised,      // an mbarrier used before, or not ordered after, its init; initialised twice
  arrivals,           // at an mbarrier, more than the count in one phase
  bytes,              // those that landed and those announced to an mbarrier differ
  phase,              // a wait for one that is not the thread's next, or that it may miss
  exited_block,       // a store into a block that has ended, or may have
  registers,          // of a warpgroup's product, touched while it was under way
  unrounded,          // a tf32 operand with bits that the product would drop
  unpublished,        // shared memory that a warpgroup's product reads, without the fence that lets it
  leftover,           // a stamped word that is not zero where a launch begins or ends
  usage,              // an argument outside its range
};

inline const char* name(FaultKind kind) {
  constexpr const char* names[] = {
      "launch",     "barrier",       "divergence", "unwritten", "race",  "bounds",       "alignment", "foreign block",
      "async copy", "uninitialised", "arrivals",   "bytes",     "phase", "exited block", "registers",     "unrounded",
      "unpublished", "leftover",     "usage"};
  return names[int(kind)];
}

class Fault : public std::runtime_error {
 public:
  Fault(FaultKind k, const std::string& what) : std::runtime_error(std::string(name(k)) + ": " + what), kind(k) {}
  const FaultKind kind;
};

}  // namespace dtag::simt
