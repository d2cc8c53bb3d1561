// What the micro-benchmarks share: error checks, quartiles, and one line of JSON per measurement on stdout.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#define CHECK(call)                                                                                   \
  do {                                                                                                \
    cudaError_t status_ = (call);                                                                     \
    if (status_ != cudaSuccess) {                                                                     \
      std::fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(status_)); \
      std::exit(2);                                                                                   \
    }                                                                                                 \
  } while (0)

// A wrong result ends the program: its times would mean nothing.
inline void require(bool holds, const std::string& what) {
  if (holds) return;
  std::fprintf(stderr, "wrong result: %s\n", what.c_str());
  std::exit(1);
}

// `parameters` is the inside of a JSON object: "\"blocks\": 8".
inline void report(const char* name, const std::string& parameters, std::vector<double> samples, const char* unit,
                   const char* decides) {
  std::sort(samples.begin(), samples.end());
  auto quantile = [&](double q) {
    double place = q * (samples.size() - 1);
    size_t below = static_cast<size_t>(place), above = std::min(below + 1, samples.size() - 1);
    return samples[below] + (place - below) * (samples[above] - samples[below]);
  };
  std::printf(
      "{\"name\": \"%s\", \"parameters\": {%s}, \"median\": %.6g, \"q25\": %.6g, \"q75\": %.6g, \"samples\": %zu, "
      "\"unit\": \"%s\", \"decides\": \"%s\"}\n",
      name, parameters.c_str(), quantile(0.5), quantile(0.25), quantile(0.75), samples.size(), unit, decides);
  std::fflush(stdout);
}

inline void skip(const char* name, const std::string& parameters, const std::string& reason) {
  std::printf("{\"name\": \"%s\", \"parameters\": {%s}, \"skipped\": \"%s\"}\n", name, parameters.c_str(),
              reason.c_str());
  std::fflush(stdout);
}

inline std::string number(const char* key, long value) {
  return std::string("\"") + key + "\": " + std::to_string(value);
}

inline std::string text(const char* key, const std::string& value) {
  return std::string("\"") + key + "\": \"" + value + "\"";
}

// Microseconds of device time per launch: `batch` launches between two events, so that the events' own cost and
// the gap at the start are shared out; one sample per round, after `warm` rounds that do not count.
template <class Launch>
std::vector<double> time_launches(int rounds, int batch, Launch launch, int warm = 3) {
  cudaEvent_t begin, end;
  CHECK(cudaEventCreate(&begin));
  CHECK(cudaEventCreate(&end));
  std::vector<double> samples;
  for (int round = -warm; round < rounds; ++round) {
    CHECK(cudaEventRecord(begin));
    for (int i = 0; i < batch; ++i) launch();
    CHECK(cudaEventRecord(end));
    CHECK(cudaEventSynchronize(end));
    float milliseconds = 0;
    CHECK(cudaEventElapsedTime(&milliseconds, begin, end));
    if (round >= 0) samples.push_back(1e3 * milliseconds / batch);
  }
  CHECK(cudaEventDestroy(begin));
  CHECK(cudaEventDestroy(end));
  return samples;
}

// Device memory that frees itself.
template <class T>
struct Buffer {
  T* data = nullptr;
  size_t size;
  explicit Buffer(size_t count) : size(count) { CHECK(cudaMalloc(&data, count * sizeof(T))); }
  explicit Buffer(const std::vector<T>& host) : Buffer(host.size()) {
    CHECK(cudaMemcpy(data, host.data(), size * sizeof(T), cudaMemcpyHostToDevice));
  }
  Buffer(const Buffer&) = delete;
  ~Buffer() { cudaFree(data); }
  // Bytes no result has, so that what a kernel did not write is seen.
  void poison() { CHECK(cudaMemset(data, 0xff, size * sizeof(T))); }
  std::vector<T> host() const {
    std::vector<T> copy(size);
    CHECK(cudaMemcpy(copy.data(), data, size * sizeof(T), cudaMemcpyDeviceToHost));
    return copy;
  }
};

// The same numbers on every machine: a linear congruential generator, in [-1, 1).
struct Uniform {
  uint32_t state;
  explicit Uniform(uint32_t seed) : state(seed * 2654435761u + 12345u) {}
  float operator()() {
    state = state * 1664525u + 1013904223u;
    return static_cast<float>(state >> 8) / 8388608.0f - 1.0f;
  }
};
