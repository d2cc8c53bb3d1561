// What launches cost: microseconds on the device's clock and on the host's for a CUDA graph of 235 tiny kernels in a
// chain, for a graph of one, and for the same kernels launched one by one. 235 is what one training step of a small
// Decision Transformer launches.
#include <chrono>

#include "common.cuh"

namespace {

constexpr int KERNELS = 235, ROUNDS = 60;

// With no counter it does nothing, which is what is timed; with one it shows that every launch took place.
__global__ void tick(unsigned* counter) {
  if (counter != nullptr) *counter += 1;
}

struct Graph {
  cudaGraphExec_t executable = nullptr;
  Graph(cudaStream_t stream, int kernels, unsigned* counter) {
    cudaGraph_t graph;
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < kernels; ++i) tick<<<1, 32, 0, stream>>>(counter);
    CHECK(cudaStreamEndCapture(stream, &graph));
    CHECK(cudaGraphInstantiate(&executable, graph, 0));
    CHECK(cudaGraphDestroy(graph));
  }
  Graph(const Graph&) = delete;
  ~Graph() { cudaGraphExecDestroy(executable); }
};

template <class Launch>
void measure(cudaStream_t stream, const char* how, int kernels, int batch, Launch launch) {
  const std::string parameters = text("how", how) + ", " + number("kernels", kernels);
  cudaEvent_t begin, end;
  CHECK(cudaEventCreate(&begin));
  CHECK(cudaEventCreate(&end));
  std::vector<double> device, host;
  for (int round = -3; round < ROUNDS; ++round) {
    CHECK(cudaStreamSynchronize(stream));
    CHECK(cudaEventRecord(begin, stream));
    const auto began = std::chrono::steady_clock::now();
    for (int i = 0; i < batch; ++i) launch();
    const std::chrono::duration<double, std::micro> spent = std::chrono::steady_clock::now() - began;
    CHECK(cudaEventRecord(end, stream));
    CHECK(cudaEventSynchronize(end));
    float milliseconds = 0;
    CHECK(cudaEventElapsedTime(&milliseconds, begin, end));
    if (round < 0) continue;
    device.push_back(1e3 * milliseconds / batch);
    host.push_back(spent.count() / batch);
  }
  CHECK(cudaEventDestroy(begin));
  CHECK(cudaEventDestroy(end));
  const char* const decides = "how much fusing the kernels of a training step is worth beside a CUDA graph";
  report("graph_replay, device", parameters, device, "us", decides);
  report("graph_replay, host call", parameters, host, "us", decides);
}

}  // namespace

int main() {
  cudaStream_t stream;
  CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  Buffer<unsigned> counter(std::vector<unsigned>{0});
  {
    Graph counting(stream, KERNELS, counter.data);
    for (int i = 0; i < 3; ++i) CHECK(cudaGraphLaunch(counting.executable, stream));
    CHECK(cudaStreamSynchronize(stream));
    require(counter.host()[0] == 3 * KERNELS, "a replayed graph runs each of its kernels once");
  }
  auto one_by_one = [&](int kernels) {
    return [=] {
      for (int i = 0; i < kernels; ++i) tick<<<1, 32, 0, stream>>>(nullptr);
    };
  };
  Graph many(stream, KERNELS, nullptr), one(stream, 1, nullptr);
  measure(stream, "graph", KERNELS, 10, [&] { CHECK(cudaGraphLaunch(many.executable, stream)); });
  measure(stream, "graph", 1, 100, [&] { CHECK(cudaGraphLaunch(one.executable, stream)); });
  measure(stream, "launches", KERNELS, 4, one_by_one(KERNELS));
  measure(stream, "launches", 1, 100, one_by_one(1));
  CHECK(cudaGetLastError());
  CHECK(cudaStreamDestroy(stream));
}
