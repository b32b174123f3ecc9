// A network that is ready to run: the one entrance to the engine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/base/mutex.h"
#include "core/container/reader.h"
#include "core/engine/graph.h"
#include "core/engine/plan.h"
#include "core/engine/thread_pool.h"
#include "core/engine/weights.h"

namespace sterna {

inline constexpr unsigned kMaxThreads = 256;

// The sizes of an input: images, then channels, height and width, or features.
using Sizes = std::vector<std::uint32_t>;

class Session {
  public:
    // Decodes what graph `name` of the file needs; the bytes are not used afterwards. `ranges` replace those of the
    // graph if there are any. Nothing, and a problem, if it cannot be run.
    static std::unique_ptr<Session> open(const std::uint8_t* bytes, std::size_t size, const std::string& name,
                                         const std::vector<Range>& ranges, const std::vector<std::uint32_t>& outputs,
                                         const EngineOptions& options, unsigned threads, std::string& problem);

    const Graph& graph() const { return graph_; }
    unsigned threads() const { return pool_.threads(); }
    // The names and shapes of tensors; not their bytes, which are not there any more.
    const Reader& reader() const { return reader_; }

    // How inputs of these sizes are computed; the plans of the last few sizes are kept. Nothing, and a problem, if they
    // cannot be.
    std::shared_ptr<const Plan> plan(const std::vector<Sizes>& inputs, std::string& problem);

    std::string run(const Plan& plan, const float* const* inputs, float* const* outputs,
                    std::vector<StepTime>* times = nullptr) {
        return plan.run(inputs, outputs, pool_, times);
    }

    // Values that come out of steps: what is fused into another node is not among them.
    std::vector<std::uint32_t> computed_values(const std::vector<Sizes>& inputs, std::string& problem);

    // Whether the graph has the ranges that 8-bit activations need.
    bool is_calibrated() const { return !graph_.ranges.empty(); }
    // Before the first plan.
    void use_int8_activations(bool int8_activations) { options_.int8_activations = int8_activations; }

  private:
    friend class SessionLoader;

    Session(const EngineOptions& options, unsigned threads) : options_(options), pool_(threads) {}

    // Takes the graph and its tensors from the reader.
    bool prepare(const std::string& name, const std::vector<Range>& ranges, const std::vector<std::uint32_t>& outputs,
                 std::string& problem);
    bool check(const std::vector<Sizes>& inputs, std::vector<Shape>& shapes, std::string& problem) const;

    EngineOptions options_;
    ThreadPool pool_;
    Reader reader_;
    std::unique_ptr<WeightStore> weights_;
    Graph graph_;
    Mutex mutex_;
    struct Known {
        std::vector<Sizes> inputs;
        std::shared_ptr<const Plan> plan;
    };
    std::vector<Known> known_;  // the latest last
};

}  // namespace sterna
