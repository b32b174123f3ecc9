// What a graph computes for inputs of given sizes: the shapes of its values, and which of its nodes are computed
// together.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/engine/graph.h"
#include "core/engine/weights.h"
#include "core/kernels/kernel_types.h"

namespace sterna {

// Of one value, without the batch. A matrix has height and width 1.
struct Shape {
    std::uint32_t channels = 0, height = 1, width = 1;
    bool is_matrix = false;

    bool operator==(const Shape&) const = default;
};

// The attributes of a convolution, or of a linear layer as one of a single pixel. Pads below 0 leave pixels out.
struct ConvShape {
    std::uint32_t kernel_height = 1, kernel_width = 1;
    std::uint32_t stride_height = 1, stride_width = 1;
    std::int32_t pad_top = 0, pad_left = 0;
    std::uint32_t dilation_height = 1, dilation_width = 1;
    std::uint32_t groups = 1;
};
ConvShape conv_shape(const GraphNode& node, const Weights& weights);

// Shapes of all values; `problem` says what does not fit, with the place of the node.
std::vector<Shape> infer_shapes(const Graph& graph, const std::vector<Shape>& inputs, WeightStore& weights,
                                std::string& problem);

inline constexpr std::uint32_t kNothing = 0xffffffff;

// A node, or a convolution (transposed ones and linear layers too) with what follows it: affine, the addition of a
// value of the same shape, and an activation, each only if its input has no other use.
struct Group {
    std::uint32_t node = kNothing;
    std::uint32_t affine = kNothing;    // node
    std::uint32_t residual = kNothing;  // value that is added
    Activation activation = Activation::kNone;
    std::uint32_t value = kNothing;  // that comes out
};

// Whether what follows a node may be computed with it.
bool is_convolution(Operator op);

// In an order in which they can be computed.
std::vector<Group> fuse(const Graph& graph, const std::vector<Shape>& shapes);

// The activation of an operator, kNone for others.
Activation activation_of(Operator op);

}  // namespace sterna
