#include "core/engine/shapes.h"

#include <algorithm>

namespace sterna {
namespace {

// Elements of one value, of one image: 2^31 bytes at most in planes of float32.
constexpr std::uint64_t kMaxValueElements = std::uint64_t{1} << 28;
// Rows and columns of a pool's window: the time of a pool grows with it, and not with what the window covers.
constexpr std::uint32_t kMaxWindow = 1 << 12;

std::string dims(const Shape& shape) {
    const std::string channels = std::to_string(shape.channels);
    if (shape.is_matrix) return "(N, " + channels + ")";
    return "(N, " + channels + ", " + std::to_string(shape.height) + ", " + std::to_string(shape.width) + ")";
}

// Size of an axis after a window has moved over it; 0 if the window does not fit.
std::uint32_t windows(std::uint64_t size, std::uint64_t kernel, std::uint64_t stride, std::uint64_t pad_begin,
                      std::uint64_t pad_end, std::uint64_t dilation, bool ceil_mode) {
    const std::uint64_t padded = size + pad_begin + pad_end;
    const std::uint64_t reach = dilation * (kernel - 1) + 1;
    if (padded < reach) return 0;
    std::uint64_t count = (padded - reach + (ceil_mode ? stride - 1 : 0)) / stride + 1;
    // The last window must begin in the input or its first padding.
    if (ceil_mode && (count - 1) * stride >= size + pad_begin) --count;
    return static_cast<std::uint32_t>(count);
}

class Inference {
  public:
    Inference(const Graph& graph, WeightStore& weights, std::string& problem)
        : graph_(graph), weights_(weights), problem_(problem) {}

    std::vector<Shape> run(const std::vector<Shape>& inputs) {
        shapes_ = inputs;
        for (std::size_t i = 0; i < graph_.nodes.size() && problem_.empty(); ++i) {
            const Shape shape = infer(graph_.nodes[i]);
            if (problem_.empty() && (shape.channels == 0 || shape.height == 0 || shape.width == 0)) {
                problem_ = "the image is too small: its output would be " + dims(shape);
            }
            const std::uint64_t pixels = std::uint64_t{shape.height} * shape.width;
            if (problem_.empty() && (pixels > kMaxValueElements || pixels * shape.channels > kMaxValueElements)) {
                problem_ = "the output " + dims(shape) + " is too large for the engine";
            }
            if (!problem_.empty()) {
                problem_ = "node " + std::to_string(i) + " (" + name(graph_.nodes[i].op) + "): " + problem_;
            }
            shapes_.push_back(shape);
        }
        return shapes_;
    }

  private:
    Shape refuse(const std::string& what) {
        problem_ = what;
        return {};
    }

    Shape infer(const GraphNode& node) {
        const Shape& x = shapes_[node.inputs[0]];
        const auto& a = node.attributes;
        switch (node.op) {
            case Operator::kConv2d:
            case Operator::kLinear:
                return infer_conv(node, x);
            case Operator::kAffine:
                for (const std::uint32_t tensor : node.tensors) {
                    const Weights* const vector = weights_.get(tensor, problem_);
                    if (vector == nullptr) return {};
                    if (vector->kind != Weights::Kind::kFloat || vector->real.size() != x.channels) {
                        return refuse("tensor " + weights_.tensor_name(tensor) + " must have " +
                                      std::to_string(x.channels) + " floating-point numbers");
                    }
                }
                return x;
            case Operator::kAdd:
            case Operator::kMul:
                return infer_pair(x, shapes_[node.inputs[1]]);
            case Operator::kConcat:
                return infer_concat(node);
            case Operator::kMaxPool2d:
            case Operator::kAvgPool2d:
                return infer_pool(node, x);
            case Operator::kAdaptiveAvgPool2d:
            case Operator::kAdaptiveMaxPool2d:
                if (x.is_matrix) return refuse("takes images, got " + dims(x));
                return {x.channels, a[ResizeAttribute::kHeight], a[ResizeAttribute::kWidth], false};
            case Operator::kFlatten: {
                const std::uint64_t features = std::uint64_t{x.channels} * x.height * x.width;
                return {static_cast<std::uint32_t>(features), 1, 1, true};
            }
            case Operator::kResizeNearest:
            case Operator::kResizeBilinear:
                return infer_resize(node, x);
            case Operator::kUpsampleNearest:
            case Operator::kUpsampleBilinear:
                if (x.is_matrix) return refuse("takes images, got " + dims(x));
                return scaled(x, a[ResizeAttribute::kHeight], a[ResizeAttribute::kWidth]);
            case Operator::kPad:
                if (x.is_matrix) return refuse("takes images, got " + dims(x));
                return {x.channels + a[PadAttribute::kChannelsBefore] + a[PadAttribute::kChannelsAfter],
                        x.height + a[PadAttribute::kTop] + a[PadAttribute::kBottom],
                        x.width + a[PadAttribute::kLeft] + a[PadAttribute::kRight], false};
            case Operator::kConvTranspose2d:
                return infer_conv_transpose(node, x);
            default:
                return x;  // activations and softmax
        }
    }

    Shape scaled(const Shape& x, std::uint64_t rows, std::uint64_t columns) {
        if (rows * x.height > kMaxValueElements || columns * x.width > kMaxValueElements) {
            return refuse("the factor is too large");
        }
        return {x.channels, static_cast<std::uint32_t>(rows * x.height), static_cast<std::uint32_t>(columns * x.width),
                false};
    }

    Shape infer_conv(const GraphNode& node, const Shape& x) {
        const Weights* const weights = weights_.get(node.tensors[0], problem_);
        if (weights == nullptr) return {};
        const std::string tensor = "tensor " + weights_.tensor_name(node.tensors[0]);
        const bool is_linear = node.op == Operator::kLinear;
        if (weights->shape.size() != (is_linear ? 2u : 4u)) return refuse(tensor + " has another number of axes");
        if (x.is_matrix != is_linear) return refuse("takes " + std::string(is_linear ? "a matrix" : "images"));
        const ConvShape conv = conv_shape(node, *weights);
        if (x.channels % conv.groups != 0 || weights->filters % conv.groups != 0 ||
            x.channels / conv.groups != weights->shape[1]) {
            return refuse(tensor + " takes " + std::to_string(std::uint64_t{weights->shape[1]} * conv.groups) +
                          " channels, got " + dims(x));
        }
        if (!check_bias(node, weights->filters)) return {};
        const auto& a = node.attributes;
        return {weights->filters,
                windows(x.height, conv.kernel_height, conv.stride_height, a[ConvAttribute::kPadTop],
                        a[ConvAttribute::kPadBottom], conv.dilation_height, false),
                windows(x.width, conv.kernel_width, conv.stride_width, a[ConvAttribute::kPadLeft],
                        a[ConvAttribute::kPadRight], conv.dilation_width, false),
                x.is_matrix};
    }

    bool check_bias(const GraphNode& node, std::uint32_t filters) {
        if (node.tensors[1] == kNoTensor) return true;
        const Weights* const bias = weights_.get(node.tensors[1], problem_);
        if (bias == nullptr) return false;
        if (bias->kind == Weights::Kind::kFloat && bias->real.size() == filters) return true;
        refuse("tensor " + weights_.tensor_name(node.tensors[1]) + " must have " + std::to_string(filters) +
               " floating-point numbers");
        return false;
    }

    Shape infer_conv_transpose(const GraphNode& node, const Shape& x) {
        const Weights* const weights = weights_.get(node.tensors[0], problem_);
        if (weights == nullptr) return {};
        const std::string tensor = "tensor " + weights_.tensor_name(node.tensors[0]);
        if (weights->shape.size() != 4) return refuse(tensor + " has another number of axes");
        if (x.is_matrix) return refuse("takes images, got " + dims(x));
        if (x.channels != weights->shape[0]) {
            return refuse(tensor + " takes " + std::to_string(weights->shape[0]) + " channels, got " + dims(x));
        }
        if (!check_bias(node, weights->shape[1])) return {};
        const auto& a = node.attributes;
        const auto size = [](std::uint64_t pixels, std::uint64_t stride, std::uint64_t kernel, std::uint64_t pads) {
            const std::uint64_t whole = (pixels - 1) * stride + kernel;
            return whole > pads ? whole - pads : 0;
        };
        const std::uint64_t height =
            size(x.height, a[ConvTransposeAttribute::kStrideHeight], weights->shape[2],
                 std::uint64_t{a[ConvTransposeAttribute::kPadTop]} + a[ConvTransposeAttribute::kPadBottom]);
        const std::uint64_t width =
            size(x.width, a[ConvTransposeAttribute::kStrideWidth], weights->shape[3],
                 std::uint64_t{a[ConvTransposeAttribute::kPadLeft]} + a[ConvTransposeAttribute::kPadRight]);
        if (height > kMaxValueElements || width > kMaxValueElements) return refuse("the stride is too large");
        return {weights->shape[1], static_cast<std::uint32_t>(height), static_cast<std::uint32_t>(width), false};
    }

    Shape infer_pair(const Shape& x, const Shape& y) {
        if (x == y) return x;
        const bool x_is_single = x.height == 1 && x.width == 1, y_is_single = y.height == 1 && y.width == 1;
        if (x.channels != y.channels || x.is_matrix || y.is_matrix || (!x_is_single && !y_is_single)) {
            return refuse("its inputs " + dims(x) + " and " + dims(y) + " do not go together");
        }
        return x_is_single ? y : x;
    }

    Shape infer_concat(const GraphNode& node) {
        Shape shape = shapes_[node.inputs[0]];
        std::uint64_t channels = shape.channels;
        for (std::size_t i = 1; i < node.inputs.size(); ++i) {
            Shape other = shapes_[node.inputs[i]];
            channels += other.channels;
            other.channels = shape.channels;
            if (!(other == shape)) return refuse("its inputs have other heights or widths");
        }
        if (channels > kMaxValueElements) return refuse("too many channels");
        shape.channels = static_cast<std::uint32_t>(channels);
        return shape;
    }

    Shape infer_pool(const GraphNode& node, const Shape& x) {
        if (x.is_matrix) return refuse("takes images, got " + dims(x));
        const auto& a = node.attributes;
        const bool is_max = node.op == Operator::kMaxPool2d;
        const bool ceil_mode = a[is_max ? PoolAttribute::kMaxCeilMode : PoolAttribute::kCeilMode] != 0;
        const std::uint32_t down = is_max ? a[PoolAttribute::kDilationHeight] : 1;
        const std::uint32_t across = is_max ? a[PoolAttribute::kDilationWidth] : 1;
        if (a[PoolAttribute::kKernelHeight] > kMaxWindow || a[PoolAttribute::kKernelWidth] > kMaxWindow) {
            return refuse("the window of a pool is too large for the engine");
        }
        // Else a window could lie in the padding alone.
        if (a[PoolAttribute::kPadTop] >= a[PoolAttribute::kKernelHeight] ||
            a[PoolAttribute::kPadLeft] >= a[PoolAttribute::kKernelWidth] ||
            a[PoolAttribute::kPadBottom] >= a[PoolAttribute::kKernelHeight] ||
            a[PoolAttribute::kPadRight] >= a[PoolAttribute::kKernelWidth]) {
            return refuse("the padding of a pool must be smaller than its window");
        }
        return {x.channels,
                windows(x.height, a[PoolAttribute::kKernelHeight], a[PoolAttribute::kStrideHeight],
                        a[PoolAttribute::kPadTop], a[PoolAttribute::kPadBottom], down, ceil_mode),
                windows(x.width, a[PoolAttribute::kKernelWidth], a[PoolAttribute::kStrideWidth],
                        a[PoolAttribute::kPadLeft], a[PoolAttribute::kPadRight], across, ceil_mode),
                false};
    }

    Shape infer_resize(const GraphNode& node, const Shape& x) {
        if (x.is_matrix) return refuse("takes images, got " + dims(x));
        if (node.inputs.size() == 2) {
            const Shape& like = shapes_[node.inputs[1]];
            return {x.channels, like.height, like.width, false};
        }
        return {x.channels, node.attributes[ResizeAttribute::kHeight], node.attributes[ResizeAttribute::kWidth], false};
    }

    const Graph& graph_;
    WeightStore& weights_;
    std::string& problem_;
    std::vector<Shape> shapes_;
};

}  // namespace

ConvShape conv_shape(const GraphNode& node, const Weights& weights) {
    ConvShape shape;
    if (node.op == Operator::kLinear) return shape;
    const auto& a = node.attributes;
    shape.kernel_height = weights.shape[2];
    shape.kernel_width = weights.shape[3];
    shape.stride_height = a[ConvAttribute::kStrideHeight];
    shape.stride_width = a[ConvAttribute::kStrideWidth];
    // No attribute is beyond 2^24.
    shape.pad_top = static_cast<std::int32_t>(a[ConvAttribute::kPadTop]);
    shape.pad_left = static_cast<std::int32_t>(a[ConvAttribute::kPadLeft]);
    shape.dilation_height = a[ConvAttribute::kDilationHeight];
    shape.dilation_width = a[ConvAttribute::kDilationWidth];
    shape.groups = a[ConvAttribute::kGroups];
    return shape;
}

std::vector<Shape> infer_shapes(const Graph& graph, const std::vector<Shape>& inputs, WeightStore& weights,
                                std::string& problem) {
    return Inference(graph, weights, problem).run(inputs);
}

Activation activation_of(Operator op) {
    switch (op) {
        case Operator::kRelu:
            return Activation::kRelu;
        case Operator::kRelu6:
            return Activation::kRelu6;
        case Operator::kHardswish:
            return Activation::kHardswish;
        case Operator::kSilu:
            return Activation::kSilu;
        case Operator::kSigmoid:
            return Activation::kSigmoid;
        case Operator::kHardsigmoid:
            return Activation::kHardsigmoid;
        default:
            return Activation::kNone;
    }
}

bool is_convolution(Operator op) {
    return op == Operator::kConv2d || op == Operator::kLinear || op == Operator::kConvTranspose2d;
}

std::vector<Group> fuse(const Graph& graph, const std::vector<Shape>& shapes) {
    const auto inputs = static_cast<std::uint32_t>(graph.inputs.size());
    const auto nodes = static_cast<std::uint32_t>(graph.nodes.size());
    // The only user of each value: a node, or kNothing where there are several or the value is an output.
    std::vector<std::uint32_t> user(graph.value_count(), kNothing);
    std::vector<std::uint32_t> uses(graph.value_count(), 0);
    for (std::uint32_t i = 0; i < nodes; ++i) {
        for (const std::uint32_t value : graph.nodes[i].inputs) {
            ++uses[value];
            user[value] = i;
        }
    }
    for (const GraphOutput& output : graph.outputs) uses[output.value] += 2;
    for (std::size_t v = 0; v < user.size(); ++v) {
        if (uses[v] != 1) user[v] = kNothing;
    }

    std::vector<bool> is_taken(nodes, false);
    std::vector<Group> groups;
    for (std::uint32_t i = 0; i < nodes; ++i) {
        if (is_taken[i]) continue;
        const GraphNode& node = graph.nodes[i];
        Group group;
        group.node = i;
        group.value = inputs + i;
        if (is_convolution(node.op)) {
            std::uint32_t next = user[group.value];
            const auto take = [&] {
                is_taken[next] = true;
                group.value = inputs + next;
                next = user[group.value];
            };
            if (next != kNothing && graph.nodes[next].op == Operator::kAffine) {
                group.affine = next;
                take();
            }
            if (next != kNothing && graph.nodes[next].op == Operator::kAdd && !is_taken[next]) {
                const auto& terms = graph.nodes[next].inputs;
                const std::uint32_t other = terms[0] == group.value ? terms[1] : terms[0];
                if (shapes[other] == shapes[group.value]) {
                    group.residual = other;
                    take();
                }
            }
            if (next != kNothing && activation_of(graph.nodes[next].op) != Activation::kNone) {
                group.activation = activation_of(graph.nodes[next].op);
                take();
            }
        }
        groups.push_back(group);
    }
    // A group can be computed where its last node stands: all it needs comes before.
    std::stable_sort(groups.begin(), groups.end(), [](const Group& a, const Group& b) { return a.value < b.value; });
    return groups;
}

}  // namespace sterna
