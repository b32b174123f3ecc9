// The graph of a network as a file holds it (docs/format.md, Graph), checked: what it says of itself is consistent.
// Whether it fits the tensors beside it is for the plan to say.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace sterna {

// By their numbers in a file.
enum class Operator : std::uint8_t {
    kConv2d,
    kLinear,
    kAffine,
    kRelu,
    kRelu6,
    kHardswish,
    kSilu,
    kSigmoid,
    kHardsigmoid,
    kAdd,
    kMul,
    kConcat,
    kMaxPool2d,
    kAvgPool2d,
    kAdaptiveAvgPool2d,
    kFlatten,
    kResizeNearest,
    kResizeBilinear,
    kPad,
    kSoftmax,
    kAdaptiveMaxPool2d,
    kUpsampleNearest,
    kUpsampleBilinear,
    kConvTranspose2d,
};
inline constexpr std::size_t kNumOperators = 24;
const char* name(Operator op);

inline constexpr std::size_t kMaxAttributes = 12;
inline constexpr std::uint32_t kMaxInputs = 256;
inline constexpr std::uint32_t kNoTensor = 0xffffffff;

// Places of attributes in a node, by operator.
struct ConvAttribute {
    enum : std::uint8_t {
        kStrideHeight,
        kStrideWidth,
        kPadTop,
        kPadLeft,
        kPadBottom,
        kPadRight,
        kDilationHeight,
        kDilationWidth,
        kGroups
    };
};
struct ConvTransposeAttribute {
    enum : std::uint8_t { kStrideHeight, kStrideWidth, kPadTop, kPadLeft, kPadBottom, kPadRight };
};
struct PoolAttribute {
    enum : std::uint8_t {
        kKernelHeight,
        kKernelWidth,
        kStrideHeight,
        kStrideWidth,
        kPadTop,
        kPadLeft,
        kPadBottom,
        kPadRight
    };
    // Of the largest, then of the average.
    enum : std::uint8_t {
        kDilationHeight = 8,
        kDilationWidth = 9,
        kMaxCeilMode = 10,
        kCeilMode = 8,
        kCountIncludePad = 9
    };
};
struct PadAttribute {
    enum : std::uint8_t { kTop, kLeft, kBottom, kRight, kChannelsBefore, kChannelsAfter };
};
struct ResizeAttribute {
    enum : std::uint8_t { kHeight, kWidth, kAlignCorners };
};

struct GraphNode {
    Operator op = Operator::kRelu;
    std::vector<std::uint32_t> inputs;  // values
    std::array<std::uint32_t, 2> tensors = {kNoTensor, kNoTensor};
    std::array<std::uint32_t, kMaxAttributes> attributes{};
};

struct GraphInput {
    std::string name;
    std::vector<std::uint32_t> shape;  // without the batch; 0 for any size
};

struct GraphOutput {
    std::string name;
    std::uint32_t value = 0;
};

struct Range {
    float low = 0.0f, high = 0.0f;
};

struct Graph {
    std::string name;
    std::vector<GraphInput> inputs;
    std::vector<GraphNode> nodes;  // the value of node i is inputs.size() + i
    std::vector<GraphOutput> outputs;
    std::vector<Range> ranges;  // by value, or none

    std::size_t value_count() const { return inputs.size() + nodes.size(); }
    // By value: whether a node uses it.
    std::vector<bool> used_values() const {
        std::vector<bool> used(value_count(), false);
        for (const GraphNode& node : nodes) {
            for (const std::uint32_t value : node.inputs) used[value] = true;
        }
        return used;
    }
};

// Reads all graphs of a file; `problem` says what is wrong, or stays empty.
std::vector<Graph> parse_graphs(const std::uint8_t* bytes, std::size_t size, std::size_t tensor_count,
                                std::string& problem);

}  // namespace sterna
