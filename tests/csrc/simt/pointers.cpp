// Shared<T> is used like T*.
#include <cmath>
#include <type_traits>

#include "check.h"

using namespace dtag::gpu;

namespace simt_test {
namespace {

template <class T>
float sum_of(Shared<const T> p, int n) {
  float sum = 0.f;
  for (auto end = p + n; p < end; ++p) sum += float(*p);
  return sum;
}

DTAG_KERNEL(kWarp) pointer_use(float* out) {
  const Shared<float> s = shared_part<float>(0, 2 * kWarp);
  Shared<float> p = nullptr;
  bool right = !p && p == nullptr;
  const int lane = lane_index();
  if (lane == 0) {
    p = s + 1;
    *p++ = 2.f;
    *p = -3;
    s[0] = s[3] = p[-1];
    s[1] += s[2] * 2.f;
    s[1] -= 1;
    p[1] /= 2.f;
    const float larger = fmaxf(s[2], 0.5f), chosen = lane == 0 ? s[1] : 0.f, negative = -s[3];
    const Shared<const float> c = s;
    right = right && larger == 0.5f && chosen == -5.f && negative == -1.f && s[0] == 2.f && p - s == 2 && p != s &&
            sum_of<float>(c, 4) == -5.f && c[3] < s[0] && 1 + s == p - 1;
    [[maybe_unused]] const auto x = s[0];
    static_assert(!std::is_convertible_v<decltype((x)), float>, "a reference that was kept would read too late");
  }
  out[lane] = vote_all(right) ? 1.f : 0.f;
}

}  // namespace

void test_pointers() {
  float out[kWarp];
  must_run("pointers to shared memory", Shape{.threads = kWarp, .shared_bytes = 1024}, [&] { pointer_use(out); },
           [&] { return out[0] == 1.f && out[31] == 1.f; });
  must_fault("a null pointer", {FaultKind::usage}, Shape{.threads = kWarp}, [] { load4(Shared<float>(nullptr)); });
}

}  // namespace simt_test
