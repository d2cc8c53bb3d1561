// mbarriers, and stores between the blocks of a cluster.
#include "inbox_kernel.h"

using namespace dtag::gpu;

namespace simt_test {
namespace {

void inbox_fault(const char* what, std::initializer_list<FaultKind> kinds, Inbox p) {
  float out[8 * Inbox::kNumbers];
  must_fault(what, kinds, inbox_shape(), [&] { inbox_kernel(p, out); });
}

void test_inbox() {
  using enum FaultKind;
  inbox_fault("one inbox where two are needed", {race, bytes, phase}, {.buffers = 1});
  inbox_fault("init without a fence", {uninitialised}, {.fence = false});
  inbox_fault("a fence behind sync_cluster", {uninitialised}, {.fence = false, .late_fence = true});
  inbox_fault("init without sync_cluster", {uninitialised}, {.publish = false});
  inbox_fault("four bytes too few announced", {bytes, race, phase}, {.announce = false});
  inbox_fault("the inbox read without a wait", {race, unwritten}, {.iterations = 1, .wait = false});
  inbox_fault("a wait for the previous phase", {phase}, {.swap_parity = true});
  inbox_fault("two arrivals where one is counted", {arrivals}, {.second_arrival = true});
}

void test_block_end() {
  const Shape cluster{.grid = 2, .cluster = 2, .threads = 32, .shared_bytes = 256};
  // What block 0 sends is of no use to block 1, which ends without waiting for it.
  const auto unread_store = [](bool final_sync) {
    auto bar = shared_part<Mbarrier>(0, 1);
    auto inbox = shared_part<float>(16, 32);
    const int t = lane_index();
    if (t == 0) {
      mbarrier_init(bar, 1);
      mbarrier_init_fence();
    }
    sync_cluster();
    if (cluster_rank() == 0) store_async(remote(inbox + t, 1), 1.f, remote(bar, 1));
    if (cluster_rank() == 1 && t == 0) mbarrier_arrive_expect(bar, 128);
    if (final_sync) sync_cluster();
  };
  must_fault("a store to a block that may have ended", {FaultKind::exited_block}, cluster, [&] { unread_store(false); });
  must_run("the same, sync_cluster at the end", cluster, [&] { unread_store(true); }, [] { return true; });
}

// The fence comes behind sync_cluster, and yet mostly before the use in another block, which has shuffles to do first.
void test_late_fence() {
  const Shape cluster{.grid = 2, .cluster = 2, .threads = 32, .shared_bytes = 256};
  must_fault("a fence behind sync_cluster, early by luck", {FaultKind::uninitialised}, cluster, [] {
    auto bar = shared_part<Mbarrier>(0, 1);
    if (lane_index() == 0) mbarrier_init(bar, 1);
    sync_cluster();
    if (lane_index() == 0) mbarrier_init_fence();
    for (int i = 0; i < 20; ++i) shuffle(i, 0);
    if (cluster_rank() == 1 && lane_index() == 0) mbarrier_arrive_expect(bar, 128);
    if (cluster_rank() == 0) store_async(remote(shared_part<float>(16, 32) + lane_index(), 1), 1.f, remote(bar, 1));
    sync_cluster();
  });
}

// One block, the barrier of `arrivals` initialised by thread 0, then `use(bar, inbox)`.
template <class Use>
void one_block(const char* what, std::initializer_list<FaultKind> kinds, int arrivals, const Use& use) {
  must_fault(what, kinds, Shape{.threads = 64, .shared_bytes = 1024}, [&] {
    auto bar = shared_part<Mbarrier>(0, 1);
    if (thread_index() == 0) mbarrier_init(bar, arrivals);
    sync_block();
    use(bar, shared_part<float>(16, 64));
  });
}

void test_phases() {
  using enum FaultKind;
  const auto send = [](Shared<float> to, Shared<Mbarrier> bar) { store_async(remote(to, 0), 1.f, remote(bar, 0)); };
  const auto alone = [] { return thread_index() == 0; };
  one_block("bytes announced and never sent", {bytes}, 1, [&](auto bar, auto) {
    if (alone()) mbarrier_arrive_expect(bar, 4);
  });
  one_block("bytes sent and never announced", {bytes}, 1, [&](auto bar, auto inbox) {
    if (alone()) send(inbox, bar);
    sync_block();
  });
  one_block("waiting for bytes that nobody sends", {barrier}, 1, [&](auto bar, auto) {
    if (alone()) mbarrier_arrive_expect(bar, 4);
    mbarrier_wait(bar, 0);
  });
  one_block("more arrivals than the count", {arrivals}, 1, [&](auto bar, auto) {
    if (thread_index() < 2) mbarrier_arrive_expect(bar, 4);
  });
  one_block("a second arrival without a wait between", {arrivals}, 2, [&](auto bar, auto) {
    if (thread_index() % 32 == 0)
      for (int i = 0; i < 2; ++i) mbarrier_arrive_expect(bar, 0);
  });
  one_block("two waits for phase 0", {phase}, 1, [&](auto bar, auto) {
    if (alone()) mbarrier_arrive_expect(bar, 0);
    mbarrier_wait(bar, 0);
    mbarrier_wait(bar, 0);
  });
  one_block("the first wait with parity 1", {phase}, 1, [&](auto bar, auto) {
    if (alone()) mbarrier_arrive_expect(bar, 0);
    mbarrier_wait(bar, 1);
  });
  one_block("a wait two phases late", {phase}, 1, [&](auto bar, auto) {
    for (int i = 0; i < 2; ++i) {
      if (alone()) mbarrier_arrive_expect(bar, 0);
      sync_block();
    }
    if (thread_index() == 40) mbarrier_wait(bar, 0);
  });
  one_block("a phase that a waiter may miss", {phase}, 1, [&](auto bar, auto) {
    if (alone())
      for (int i = 0; i < 2; ++i) mbarrier_arrive_expect(bar, 0);
    if (thread_index() == 40) mbarrier_wait(bar, 0);
  });
  one_block("initialised twice", {uninitialised}, 1, [&](auto bar, auto) {
    if (alone()) mbarrier_init(bar, 1);
  });
  one_block("an mbarrier never initialised", {uninitialised}, 1, [&](auto, auto) {
    if (alone()) mbarrier_arrive_expect(shared_part<Mbarrier>(512, 1), 0);
  });
  one_block("an mbarrier read as numbers", {usage}, 1, [&](auto, auto) { (void)float(shared_part<float>(0, 2)[1]); });
  one_block("data read by a thread that did not wait", {race, unwritten}, 1, [&](auto bar, auto inbox) {
    if (alone()) {
      mbarrier_arrive_expect(bar, 4);
      send(inbox, bar);
    }
    if (thread_index() < 32) mbarrier_wait(bar, 0);
    sync_warp();
    if (thread_index() == 32 || thread_index() == 0) (void)float(inbox[0]);
  });
  one_block("data read after sync_block, without a wait", {race}, 1, [&](auto bar, auto inbox) {
    if (alone()) {
      mbarrier_arrive_expect(bar, 4);
      send(inbox, bar);
    }
    sync_block();
    (void)float(inbox[0]);
  });
  one_block("store_async out of its part", {bounds}, 1, [&](auto bar, auto inbox) {
    if (alone()) send(inbox + 64, bar);
  });
  one_block("no block of this rank", {usage}, 1, [&](auto, auto inbox) { remote(inbox, 1); });
  must_fault("used without a barrier behind the init", {uninitialised}, Shape{.threads = 64, .shared_bytes = 64}, [] {
    auto bar = shared_part<Mbarrier>(0, 1);
    if (thread_index() == 0) mbarrier_init(bar, 1);
    if (thread_index() == 40) mbarrier_arrive_expect(bar, 0);
  });
  must_run("data read after a waiter's sync_block", Shape{.threads = 64, .shared_bytes = 1024}, [&] {
    auto bar = shared_part<Mbarrier>(0, 1);
    auto inbox = shared_part<float>(16, 64);
    if (alone()) mbarrier_init(bar, 1);
    sync_block();
    if (alone()) mbarrier_arrive_expect(bar, 4);
    if (thread_index() == 40) send(inbox, bar);
    if (thread_index() < 32) mbarrier_wait(bar, 0);
    sync_block();
    (void)float(inbox[0]);
  }, [] { return true; });
}

}  // namespace

void test_mbarrier_faults() {
  test_inbox();
  test_late_fence();
  test_block_end();
  test_phases();
}

}  // namespace simt_test
