#include "core/engine/graph.h"

#include <cmath>
#include <cstring>
#include <set>

#include "core/base/varint.h"

namespace sterna {
namespace {

// What nodes of an operator have; the same as in graph.py.
struct Signature {
    const char* name;
    std::uint32_t least_inputs, most_inputs;
    std::uint32_t tensors, required_tensors;
    std::uint32_t attributes;
    // Bits of the attributes that are at least 1: kernels, strides, dilations, groups, factors.
    std::uint32_t positive;
    // Bits of those that are at most 1.
    std::uint32_t flags;
};
constexpr Signature kSignatures[kNumOperators] = {
    {"conv2d", 1, 1, 2, 1, 9, 0b111000011, 0},
    {"linear", 1, 1, 2, 1, 0, 0, 0},
    {"affine", 1, 1, 2, 2, 0, 0, 0},
    {"relu", 1, 1, 0, 0, 0, 0, 0},
    {"relu6", 1, 1, 0, 0, 0, 0, 0},
    {"hardswish", 1, 1, 0, 0, 0, 0, 0},
    {"silu", 1, 1, 0, 0, 0, 0, 0},
    {"sigmoid", 1, 1, 0, 0, 0, 0, 0},
    {"hardsigmoid", 1, 1, 0, 0, 0, 0, 0},
    {"add", 2, 2, 0, 0, 0, 0, 0},
    {"mul", 2, 2, 0, 0, 0, 0, 0},
    {"concat", 1, kMaxInputs, 0, 0, 0, 0, 0},
    {"max_pool2d", 1, 1, 0, 0, 11, 0b01100001111, 0b10000000000},
    {"avg_pool2d", 1, 1, 0, 0, 10, 0b0000001111, 0b1100000000},
    {"adaptive_avg_pool2d", 1, 1, 0, 0, 2, 0b11, 0},
    {"flatten", 1, 1, 0, 0, 0, 0, 0},
    {"resize_nearest", 1, 2, 0, 0, 2, 0, 0},
    {"resize_bilinear", 1, 2, 0, 0, 3, 0, 0b100},
    {"pad", 1, 1, 0, 0, 6, 0, 0},
    {"softmax", 1, 1, 0, 0, 0, 0, 0},
    {"adaptive_max_pool2d", 1, 1, 0, 0, 2, 0b11, 0},
    {"upsample_nearest", 1, 1, 0, 0, 2, 0b11, 0},
    {"upsample_bilinear", 1, 1, 0, 0, 3, 0b011, 0b100},
    {"conv_transpose2d", 1, 1, 2, 1, 6, 0b000011, 0},
};

// Far beyond any network, and small enough that sums of a few attributes and sizes fit 32 bits.
constexpr std::uint64_t kMaxAttribute = 1 << 24;
constexpr std::uint64_t kMaxNameBytes = 1024;
constexpr std::uint64_t kMaxSize = 1 << 20;
constexpr std::uint64_t kMaxGraphs = 64;
constexpr std::uint64_t kMaxGraphNodes = 1 << 16;  // of all graphs
constexpr std::uint64_t kMaxOutputs = 1 << 10;
constexpr std::uint64_t kMaxInputAxes = 4;

// Whether bytes are UTF-8: nothing longer than it must be, no halves of UTF-16, nothing beyond U+10FFFF.
bool is_utf8(const std::string& text) {
    constexpr std::uint32_t kLeast[] = {0, 0x80, 0x800, 0x10000};
    for (std::size_t i = 0; i < text.size();) {
        const auto first = static_cast<unsigned char>(text[i++]);
        const unsigned more = first < 0x80 ? 0 : first < 0xc0 ? 4 : first < 0xe0 ? 1 : first < 0xf0 ? 2 : 3;
        if (more > text.size() - i || more == 4 || first >= 0xf8) return false;
        std::uint32_t code = more == 0 ? first : first & (0x3fu >> more);
        for (unsigned k = 0; k < more; ++k) {
            const auto next = static_cast<unsigned char>(text[i++]);
            if ((next & 0xc0) != 0x80) return false;
            code = code << 6 | (next & 0x3fu);
        }
        if (code < kLeast[more] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return false;
    }
    return true;
}

// Reads one thing after the other; after the first problem everything reads as 0.
class Parser {
  public:
    Parser(const std::uint8_t* bytes, std::size_t size, std::size_t tensor_count)
        : bytes_(bytes), size_(size), tensor_count_(tensor_count) {}

    std::vector<Graph> graphs() {
        std::vector<Graph> graphs;
        std::set<std::string> names;
        const std::uint64_t count = number(kMaxGraphs, "too many graphs");
        for (std::uint64_t i = 0; i < count && problem_.empty(); ++i) {
            graphs.push_back(graph());
            if (!names.insert(graphs.back().name).second) refuse("two graphs have one name");
        }
        if (problem_.empty() && at_ != size_) refuse("bytes follow the last graph");
        return graphs;
    }
    const std::string& problem() const { return problem_; }

  private:
    void refuse(const char* what) {
        if (problem_.empty()) problem_ = what;
    }

    std::uint64_t number(std::uint64_t most, const char* what) {
        std::uint64_t value = 0;
        if (!problem_.empty()) return 0;
        if (get_varint(bytes_, size_, at_, value) != Status::kOk) refuse("an integer of the graph is cut off");
        if (value > most) refuse(what);
        return problem_.empty() ? value : 0;
    }

    std::string text() {
        const std::uint64_t length = number(kMaxNameBytes, "a name of the graph is too long");
        if (length > size_ - at_) refuse("a name of the graph is cut off");
        if (!problem_.empty()) return {};
        const std::string value(reinterpret_cast<const char*>(bytes_) + at_, static_cast<std::size_t>(length));
        at_ += static_cast<std::size_t>(length);
        if (!is_utf8(value)) refuse("a name of the graph is not UTF-8");
        return value;
    }

    float real() {
        if (size_ - at_ < 4) refuse("a number of the graph is cut off");
        if (!problem_.empty()) return 0.0f;
        std::uint32_t bits = 0;
        for (unsigned i = 0; i < 4; ++i) bits |= std::uint32_t{bytes_[at_ + i]} << (8 * i);
        at_ += 4;
        float value = 0.0f;
        std::memcpy(&value, &bits, sizeof(value));
        if (!std::isfinite(value)) refuse("a range of the graph is not finite");
        return value;
    }

    Graph graph() {
        Graph graph;
        graph.name = text();
        std::set<std::string> names;
        const std::uint64_t inputs = number(kMaxInputs, "a graph has too many inputs");
        for (std::uint64_t i = 0; i < inputs && problem_.empty(); ++i) {
            GraphInput input;
            input.name = text();
            const std::uint64_t axes = number(kMaxInputAxes, "an input has too many axes");
            for (std::uint64_t a = 0; a < axes; ++a) {
                input.shape.push_back(static_cast<std::uint32_t>(number(kMaxSize, "an input is too large")));
            }
            if (axes != 1 && axes != 3) refuse("an input must have 1 or 3 axes besides the batch");
            if (!names.insert(input.name).second) refuse("two inputs have one name");
            graph.inputs.push_back(input);
        }
        const std::uint64_t nodes = number(kMaxGraphNodes - nodes_, "the graphs have too many nodes");
        nodes_ += nodes;
        for (std::uint64_t i = 0; i < nodes && problem_.empty(); ++i) graph.nodes.push_back(node(inputs + i));
        names.clear();
        const std::uint64_t outputs = number(kMaxOutputs, "a graph has too many outputs");
        for (std::uint64_t i = 0; i < outputs && problem_.empty(); ++i) {
            GraphOutput output;
            output.name = text();
            output.value = value(inputs + nodes);
            if (!names.insert(output.name).second) refuse("two outputs have one name");
            graph.outputs.push_back(output);
        }
        const std::uint64_t ranges = number(inputs + nodes, "there must be a range for every value, or none");
        if (ranges != 0 && ranges != inputs + nodes) refuse("there must be a range for every value, or none");
        for (std::uint64_t i = 0; i < ranges && problem_.empty(); ++i) {
            Range range;
            range.low = real();
            range.high = real();
            if (range.low > range.high) refuse("a range of the graph is empty");
            graph.ranges.push_back(range);
        }
        if (inputs == 0 || outputs == 0) refuse("a graph must have inputs and outputs");
        return graph;
    }

    std::uint32_t value(std::uint64_t known) {
        return static_cast<std::uint32_t>(
            number(known == 0 ? 0 : known - 1, "a node uses a value that is not there yet"));
    }

    GraphNode node(std::uint64_t known) {
        GraphNode node;
        const std::uint64_t op = at_ < size_ ? bytes_[at_++] : kNumOperators;
        if (op >= kNumOperators) {
            refuse("an operator that this version does not know");
            return node;
        }
        node.op = static_cast<Operator>(op);
        const Signature& signature = kSignatures[op];
        const std::uint64_t inputs = number(signature.most_inputs, "a node has too many inputs");
        if (inputs < signature.least_inputs) refuse("a node has too few inputs");
        for (std::uint64_t i = 0; i < inputs && problem_.empty(); ++i) node.inputs.push_back(value(known));
        for (std::uint32_t i = 0; i < signature.tensors; ++i) {
            const std::uint64_t tensor = number(tensor_count_, "a node uses a tensor that is not there");
            if (tensor == 0 && i < signature.required_tensors) refuse("a node lacks a tensor");
            if (tensor != 0) node.tensors[i] = static_cast<std::uint32_t>(tensor - 1);
        }
        for (std::uint32_t i = 0; i < signature.attributes; ++i) {
            const std::uint64_t attribute = number(kMaxAttribute, "an attribute of a node is too large");
            if (attribute == 0 && (signature.positive >> i & 1) != 0) refuse("an attribute of a node must not be 0");
            if (attribute > 1 && (signature.flags >> i & 1) != 0) refuse("a flag of a node must be 0 or 1");
            node.attributes[i] = static_cast<std::uint32_t>(attribute);
        }
        if (node.op == Operator::kResizeNearest || node.op == Operator::kResizeBilinear) check_resize(node);
        return node;
    }

    // To the size of a second input, or to one that is given.
    void check_resize(const GraphNode& node) {
        for (const std::size_t i : {ResizeAttribute::kHeight, ResizeAttribute::kWidth}) {
            if ((node.attributes[i] == 0) != (node.inputs.size() == 2)) {
                refuse("a resize must have a second input, or a size, and not both");
            }
        }
    }

    const std::uint8_t* bytes_;
    std::size_t size_;
    std::size_t tensor_count_;
    std::uint64_t nodes_ = 0;
    std::size_t at_ = 0;
    std::string problem_;
};

}  // namespace

const char* name(Operator op) {
    return kSignatures[static_cast<std::size_t>(op)].name;
}

std::vector<Graph> parse_graphs(const std::uint8_t* bytes, std::size_t size, std::size_t tensor_count,
                                std::string& problem) {
    Parser parser(bytes, size, tensor_count);
    std::vector<Graph> graphs = parser.graphs();
    problem = parser.problem();
    if (!problem.empty()) graphs.clear();
    return graphs;
}

}  // namespace sterna
