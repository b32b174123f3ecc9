// libFuzzer target of the engine: hostile graphs over tensors of fixed shapes. The first byte chooses integer
// inference, the number of threads and the kernels; the second one the number of images; the next two the sizes of
// inputs that are free. The rest is the graphs' bytes or, if bit 5 of the first byte is set, what a graph that can be
// parsed is made of. What is refused is refused with a problem; what is accepted is run.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/engine/session.h"
#include "core/engine/shapes.h"
#include "core/kernels/isa.h"
#include "core/testing/emulated_tiles.h"
#include "core/testing/network.h"
#include "fuzz/require.h"

namespace {

constexpr std::size_t kHead = 4;
// Lawful beyond these, but not worth the fuzzer's time and memory.
constexpr std::uint64_t kMaxBytes = std::uint64_t{1} << 20;
constexpr std::uint64_t kMaxWork = std::uint64_t{1} << 19;
constexpr std::uint32_t kMaxChannels = 64;

using sterna::testing::Tensor;

Tensor tensor(Tensor::Kind kind, const std::vector<std::uint32_t>& shape) {
    Tensor made;
    made.kind = kind;
    made.shape = shape;
    for (std::size_t i = 0; i < made.elements(); ++i) {
        const auto number = static_cast<std::int8_t>(i * 7 % 3) - 1;
        if (kind == Tensor::Kind::kFloat) {
            made.real.push_back(static_cast<float>(number) * 0.5f);
        } else {
            made.whole.push_back(static_cast<std::int8_t>(number));
        }
    }
    if (kind == Tensor::Kind::kInt8) made.scale = {0.25f};
    return made;
}

// With a scale for each index of its first axis.
Tensor scaled(Tensor made) {
    for (std::uint32_t i = 0; i < made.shape[0]; ++i) made.scale.push_back(0.25f * static_cast<float>(i + 1));
    return made;
}

const std::vector<Tensor>& tensors() {
    static const std::vector<Tensor> kTensors = {
        tensor(Tensor::Kind::kSigns, {4, 3, 3, 3}),
        tensor(Tensor::Kind::kSigns, {4, 4, 1, 1}),
        tensor(Tensor::Kind::kSigns, {4, 1, 5, 2}),
        tensor(Tensor::Kind::kInt8, {8, 4, 3, 3}),
        tensor(Tensor::Kind::kFloat, {4, 2, 1, 7}),
        tensor(Tensor::Kind::kFloat, {4}),
        tensor(Tensor::Kind::kSigns, {5, 4}),
        tensor(Tensor::Kind::kFloat, {3, 16}),
        tensor(Tensor::Kind::kFloat, {8}),
        tensor(Tensor::Kind::kSigns, {2, 300, 1, 1}),
        scaled(tensor(Tensor::Kind::kSigns, {4, 3, 2, 2})),
    };
    return kTensors;
}

// What does not change from input to input is made once.
const sterna::testing::Sections& sections() {
    static const sterna::testing::Sections kSections = sterna::testing::encode_tensors(tensors());
    return kSections;
}

sterna::WeightStore& weights() {
    static const std::vector<std::uint8_t> kFile = sterna::testing::encode_file(sections(), {0});
    static sterna::Reader reader;
    static const bool kIsOpen = !reader.open(kFile.data(), kFile.size(), true);
    require(kIsOpen);
    static sterna::WeightStore store(reader);
    // As Session::open does, so that those that cannot be used are known.
    std::string problem;
    for (std::uint32_t i = 0; i < tensors().size(); ++i) require(store.get(i, problem) != nullptr);
    return store;
}

// Bytes as what a graph is made of; after the last one all are 0.
class Source {
  public:
    Source(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}
    bool is_empty() const { return at_ >= size_; }
    std::uint32_t below(std::uint32_t limit) { return is_empty() ? 0 : data_[at_++] % limit; }
    // Mostly small, sometimes near a power of two, up to the limit of attributes.
    std::uint32_t size() {
        const std::uint32_t kind = below(256);
        if (kind < 224) return kind % 8;
        return (1u << kind % 25) - (kind % 3 == 0 ? 1u : 0u);
    }
    float real() {
        const float number = static_cast<float>(below(256)) - 100.0f;
        return number * (number > 140.0f ? 1e36f : number > 120.0f ? 1e-37f : 0.1f);
    }

  private:
    const std::uint8_t* data_;
    std::size_t size_;
    std::size_t at_ = 0;
};

// Well-formed, and otherwise hostile.
sterna::Graph graph_of(Source& source) {
    constexpr std::uint32_t kMaxNodes = 24;
    constexpr std::uint32_t kChannels[] = {3, 4, 8, 1, 2, 300, 16, 0};
    sterna::Graph graph;
    for (std::uint32_t i = 0, count = source.below(3) + 1; i < count; ++i) {
        sterna::GraphInput input;
        input.name = std::to_string(i);
        input.shape = {kChannels[source.below(8)]};
        if (source.below(4) != 0) input.shape.insert(input.shape.end(), {source.size(), source.size()});
        graph.inputs.push_back(input);
    }
    while (!source.is_empty() && graph.nodes.size() < kMaxNodes) {
        sterna::GraphNode node;
        const auto known = static_cast<std::uint32_t>(graph.value_count());
        // Half of them are convolutions, which have the most to go wrong.
        const std::uint32_t op = source.below(2 * sterna::kNumOperators);
        if (op < sterna::kNumOperators) node.op = static_cast<sterna::Operator>(op);
        if (op >= sterna::kNumOperators) node.op = sterna::Operator::kConv2d;
        std::uint32_t inputs = 1;
        if (node.op == sterna::Operator::kAdd || node.op == sterna::Operator::kMul) inputs = 2;
        if (node.op == sterna::Operator::kConcat) inputs = source.below(4) + 1;
        // Chains grow faster than they would by chance.
        for (std::uint32_t i = 0; i < inputs; ++i) {
            node.inputs.push_back(source.below(2) == 0 ? known - 1 : source.below(known));
        }
        const auto count = static_cast<std::uint32_t>(tensors().size());
        for (std::size_t i = 0; i < sterna::testing::tensor_count(node.op); ++i) {
            const bool is_there = i == 0 || node.op == sterna::Operator::kAffine || source.below(2) == 0;
            if (is_there) node.tensors[i] = source.below(count);
        }
        for (std::size_t i = 0; i < sterna::testing::attribute_count(node.op); ++i) node.attributes[i] = source.size();
        if (node.op == sterna::Operator::kConv2d) {
            for (const std::size_t i : {0u, 1u, 6u, 7u, 8u}) node.attributes[i] = std::max(node.attributes[i] / 2, 1u);
        }
        if (node.op == sterna::Operator::kConvTranspose2d) {
            for (const std::size_t i : {0u, 1u}) node.attributes[i] = std::max(node.attributes[i], 1u);
        }
        graph.nodes.push_back(node);
    }
    const auto values = static_cast<std::uint32_t>(graph.value_count());
    graph.outputs.push_back({"last", values - 1});
    if (source.below(2) == 0) graph.outputs.push_back({"other", source.below(values)});
    for (std::uint32_t i = 0; i < values; ++i) {
        const float one = source.real(), other = source.real();
        graph.ranges.push_back({std::min(one, other), std::max(one, other)});
    }
    return graph;
}

// An upper bound for what all nodes do, so far as it is not refused already: rows times what is read for each.
std::uint64_t work(const sterna::Graph& graph, const std::vector<sterna::Shape>& shapes, std::uint32_t images) {
    std::uint64_t total = 0;
    for (std::size_t i = 0; i < graph.nodes.size() && total <= kMaxWork; ++i) {
        const sterna::GraphNode& node = graph.nodes[i];
        const sterna::Shape& y = shapes[graph.inputs.size() + i];
        const auto area = [](const sterna::Shape& shape) {
            return std::uint64_t{shape.channels} * (shape.height + 16) * (shape.width + 16);
        };
        std::uint64_t one = area(y);
        for (const std::uint32_t value : node.inputs) {
            const sterna::Shape& x = shapes[value];
            one += area(x) + std::uint64_t{y.channels} * y.height * (std::uint64_t{x.width} + y.width);
        }
        switch (node.op) {
            case sterna::Operator::kMaxPool2d:
            case sterna::Operator::kAvgPool2d:
                one *= node.attributes[0] + node.attributes[1];
                break;
            case sterna::Operator::kConv2d:
            case sterna::Operator::kConvTranspose2d:
                one *= 10;
                break;
            default:
                break;
        }
        total += one * images;
    }
    return total;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < kHead || size > 4096) return 0;
    std::vector<std::uint8_t> graphs(data + kHead, data + size);
    if ((data[0] & 32) != 0) {
        Source source(data + kHead, size - kHead);
        graphs = sterna::testing::encode_graph(graph_of(source));
    }
    sterna::EngineOptions options;
    options.int8_activations = (data[0] & 1) != 0;
    options.is_tuned = false;
    if ((data[0] & 4) != 0) {
        options.method = (data[0] & 2) != 0 ? sterna::ConvMethod::kFast : sterna::ConvMethod::kDense;
    }
    options.sparse_form = data[0] >> 6;
    options.max_bytes = kMaxBytes;
    options.isa = sterna::best_isa();
    for (std::size_t i = 0; i < sterna::kNumIsas; ++i) {
        const auto isa = static_cast<sterna::Isa>(i);
        if (sterna::is_available(isa) && (data[0] >> 3 & 3) == i) options.isa = isa;
    }
    // One in four multiplies matrices on every processor.
    if ((data[0] >> 3 & 3) == 3) {
        options.kernels = &sterna::testing::emulated_tile_kernels();
        options.method = sterna::ConvMethod::kMatrix;
        if ((data[0] & 4) != 0) options.matrix_bytes = 1;
    }
    std::string problem;
    const std::vector<sterna::Graph> parsed =
        sterna::parse_graphs(graphs.data(), graphs.size(), tensors().size(), problem);
    if (parsed.empty()) return 0;
    problem.clear();
    const sterna::Graph& graph = parsed[0];
    const unsigned threads = (data[0] & 2) != 0 ? 2 : 1;
    // One in eight as a file, which takes far longer than its graph.
    std::unique_ptr<sterna::Session> session;
    if (data[1] < 32) {
        const std::vector<std::uint8_t> file = sterna::testing::encode_file(sections(), graphs);
        session = sterna::Session::open(file.data(), file.size(), graph.name, {}, {}, options, threads, problem);
        require((session == nullptr) == !problem.empty());
        if (session == nullptr) return 0;
    }

    // Sizes that are free are small; others are as the graph says, if they are not too large.
    std::vector<sterna::Sizes> sizes;
    std::vector<sterna::Shape> shapes;
    std::vector<std::vector<float>> inputs;
    std::vector<const float*> from;
    const std::uint32_t images = data[1] % 12u + 1;
    for (const sterna::GraphInput& input : graph.inputs) {
        sterna::Sizes one = {images};
        for (std::size_t axis = 0; axis < input.shape.size(); ++axis) {
            const std::uint32_t most = axis == 0 ? kMaxChannels : 48;
            const std::uint32_t given = input.shape[axis] != 0 ? input.shape[axis] : data[2 + axis % 2] % 17u + 1;
            if (axis == 0 && given > 1024) return 0;
            one.push_back(axis == 0 ? given : std::min(given, most));
        }
        std::size_t elements = 1;
        for (const std::uint32_t axis : one) elements *= axis;
        if (elements > (1u << 18) || inputs.size() > 64) return 0;
        inputs.emplace_back(elements);
        for (std::size_t i = 0; i < elements; ++i) inputs.back()[i] = static_cast<float>(i % 13) - 6.0f;
        from.push_back(inputs.back().data());
        sterna::Shape shape;
        shape.channels = one[1];
        shape.is_matrix = one.size() == 2;
        if (!shape.is_matrix) {
            shape.height = one[2];
            shape.width = one[3];
        }
        shapes.push_back(shape);
        sizes.push_back(one);
    }
    std::shared_ptr<const sterna::Plan> plan;
    if (session != nullptr) {
        plan = session->plan(sizes, problem);
    } else {
        plan = sterna::Plan::make(graph, shapes, images, weights(), options, problem);
    }
    require((plan == nullptr) == !problem.empty());
    if (plan == nullptr) return 0;
    require(plan->arena_bytes() <= kMaxBytes);
    const std::vector<sterna::Shape> all = sterna::infer_shapes(graph, shapes, weights(), problem);
    require(problem.empty());
    if (work(graph, all, images) > kMaxWork) return 0;
    std::vector<std::vector<float>> outputs;
    std::vector<float*> to;
    for (const sterna::Shape& shape : plan->outputs()) {
        outputs.emplace_back(std::size_t{images} * shape.channels * shape.height * shape.width);
        if (outputs.size() > 64) return 0;
    }
    for (std::vector<float>& output : outputs) to.push_back(output.data());
    if (session != nullptr) {
        require(session->run(*plan, from.data(), to.data()).empty());
    } else {
        sterna::ThreadPool pool(threads);
        require(plan->run(from.data(), to.data(), pool, nullptr).empty());
    }
    return 0;
}
