#include "core/engine/session.h"

#include <algorithm>

#include "core/container/fault_text.h"

namespace sterna {
namespace {

constexpr std::size_t kKeptPlans = 8;
constexpr std::uint32_t kMaxImages = 1 << 16;

std::string text(const Sizes& sizes) {
    std::string out = "(";
    for (std::size_t i = 0; i < sizes.size(); ++i) out += (i == 0 ? "" : ", ") + std::to_string(sizes[i]);
    return out + ")";
}

std::string text(const GraphInput& input) {
    std::string out = "(N";
    for (std::size_t i = 0; i < input.shape.size(); ++i) {
        // Height and width are free.
        out += i == 0 ? ", " + std::to_string(input.shape[0]) : i == 1 ? ", H" : ", W";
    }
    return out + ")";
}

}  // namespace

std::unique_ptr<Session> Session::open(const std::uint8_t* bytes, std::size_t size, const std::string& name,
                                       const std::vector<Range>& ranges, const std::vector<std::uint32_t>& outputs,
                                       const EngineOptions& options, unsigned threads, std::string& problem) {
    std::unique_ptr<Session> session(new Session(options, threads));
    if (const Fault fault = session->reader_.open(bytes, size, true)) {
        problem = to_text(fault);
        return nullptr;
    }
    if (!session->prepare(name, ranges, outputs, problem)) return nullptr;
    return session;
}

bool Session::prepare(const std::string& name, const std::vector<Range>& ranges,
                      const std::vector<std::uint32_t>& outputs, std::string& problem) {
    const Buffer<std::uint8_t>& coded = reader_.graph();
    if (coded.size() == 0) {
        problem =
            "the file holds no graph to run: write it anew with one (sterna.capture, sterna.save), or load it into "
            "PyTorch";
        return false;
    }
    std::vector<Graph> graphs = parse_graphs(coded.data(), coded.size(), reader_.tensors().size(), problem);
    if (!problem.empty()) return false;
    const auto found =
        std::find_if(graphs.begin(), graphs.end(), [&name](const Graph& graph) { return graph.name == name; });
    if (found == graphs.end()) {
        problem = "the file holds no graph of the name '" + name + "'; it has";
        for (const Graph& graph : graphs) problem += " '" + graph.name + "'";
        return false;
    }
    graph_ = std::move(*found);
    if (!ranges.empty()) {
        if (ranges.size() != graph_.value_count()) {
            problem = "there must be " + std::to_string(graph_.value_count()) + " ranges, one for each value, got " +
                      std::to_string(ranges.size());
            return false;
        }
        graph_.ranges = ranges;
    }
    if (!outputs.empty()) {
        graph_.outputs.clear();
        for (const std::uint32_t value : outputs) {
            if (value >= graph_.value_count()) {
                problem = "there is no value " + std::to_string(value);
                return false;
            }
            graph_.outputs.push_back({std::to_string(value), value});
        }
    }
    // A loader has made it, and decoded some, before.
    if (weights_ == nullptr) weights_ = std::make_unique<WeightStore>(reader_);
    for (const GraphNode& node : graph_.nodes) {
        for (const std::uint32_t tensor : node.tensors) {
            if (tensor != kNoTensor && weights_->get(tensor, problem) == nullptr) return false;
        }
    }
    weights_->forget_file();
    return true;
}

bool Session::check(const std::vector<Sizes>& inputs, std::vector<Shape>& shapes, std::string& problem) const {
    if (inputs.size() != graph_.inputs.size()) {
        problem =
            "the graph has " + std::to_string(graph_.inputs.size()) + " inputs, got " + std::to_string(inputs.size());
        return false;
    }
    for (std::size_t i = 0; i < inputs.size(); ++i) {
        const GraphInput& input = graph_.inputs[i];
        const Sizes& sizes = inputs[i];
        bool fits = sizes.size() == input.shape.size() + 1 && std::count(sizes.begin(), sizes.end(), 0u) == 0;
        fits = fits && (input.shape[0] == 0 || sizes[1] == input.shape[0]);
        if (!fits) {
            problem =
                "input '" + input.name + "' must have shape " + text(input) + " and no axis of 0, got " + text(sizes);
            return false;
        }
        if (sizes[0] > kMaxImages || sizes[0] != inputs[0][0]) {
            problem = "all inputs must have the same number of images, at most " + std::to_string(kMaxImages) +
                      ", got " + std::to_string(sizes[0]);
            return false;
        }
        std::uint64_t elements = 1;
        for (std::size_t axis = 1; axis < sizes.size(); ++axis) {
            elements *= sizes[axis];
            if (elements > (std::uint64_t{1} << 28)) {
                problem = "input '" + input.name + "' is too large for the engine, got " + text(sizes);
                return false;
            }
        }
        Shape shape;
        shape.channels = sizes[1];
        shape.is_matrix = sizes.size() == 2;
        if (!shape.is_matrix) {
            shape.height = sizes[2];
            shape.width = sizes[3];
        }
        shapes.push_back(shape);
    }
    return true;
}

std::shared_ptr<const Plan> Session::plan(const std::vector<Sizes>& inputs, std::string& problem) {
    const MutexLock lock(mutex_);
    const auto found =
        std::find_if(known_.begin(), known_.end(), [&inputs](const Known& known) { return known.inputs == inputs; });
    if (found != known_.end()) {
        std::rotate(found, found + 1, known_.end());
        return known_.back().plan;
    }
    std::vector<Shape> shapes;
    if (!check(inputs, shapes, problem)) return nullptr;
    std::shared_ptr<const Plan> plan = Plan::make(graph_, shapes, inputs[0][0], *weights_, options_, problem);
    if (plan == nullptr) return nullptr;
    if (known_.size() == kKeptPlans) known_.erase(known_.begin());
    known_.push_back({inputs, plan});
    return plan;
}

std::vector<std::uint32_t> Session::computed_values(const std::vector<Sizes>& inputs, std::string& problem) {
    std::vector<Shape> shapes;
    if (!check(inputs, shapes, problem)) return {};
    const std::vector<Shape> all = infer_shapes(graph_, shapes, *weights_, problem);
    if (!problem.empty()) return {};
    std::vector<std::uint32_t> values;
    for (std::uint32_t i = 0; i < graph_.inputs.size(); ++i) values.push_back(i);
    for (const Group& group : fuse(graph_, all)) values.push_back(group.value);
    return values;
}

}  // namespace sterna
