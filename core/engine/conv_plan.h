// Convolutions and linear layers as the kernels take them: offsets of planes, in lists of signs or with weights.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/engine/plan.h"

namespace sterna {

// How far beyond the pixels of its output a convolution reads, in rows and columns of the planes that it reads.
struct ConvReach {
    bool is_direct = false;  // stride 1 and an output of the input's size: the planes are those of the value
    std::uint32_t top = 0, left = 0, bottom = 0, right = 0;
    bool is_strided = false;   // or some of them
    std::uint64_t phases = 0;  // bits of those that are read; all where there are more than 64

    void include(const ConvReach& other) {
        top = top > other.top ? top : other.top;
        left = left > other.left ? left : other.left;
        bottom = bottom > other.bottom ? bottom : other.bottom;
        right = right > other.right ? right : other.right;
        is_strided = is_strided || other.is_strided;
    }
};
ConvReach conv_reach(const ConvShape& conv, const Shape& input, const Shape& output);
// The same of a convolution that reads its input as it is, whatever the strides: beyond the pixels of the input.
ConvReach strided_reach(const ConvShape& conv, const Shape& input, const Shape& output);

struct ConvRequest;
// Whether the kernel for it can read every second column of an input of bytes, of an output of bytes to which nothing
// is added.
bool can_read_strides(const ConvRequest& request);
// How its input is split otherwise.
SplitShape split_shape(const ConvRequest& request, const ConvReach& reach);

struct ConvRequest {
    const Weights* weights = nullptr;
    const Weights* bias = nullptr;
    const Weights* affine_scale = nullptr;
    const Weights* affine_shift = nullptr;
    std::uint32_t filters_per_bias = 1;  // that share a number of the bias and of the affine
    ConvShape shape;
    Shape input, output;
    std::uint32_t images = 1;
    Element element = Element::kFloat32;  // of the input
    Levels input_levels;
    const Geometry* geometry = nullptr;  // of the output, and of the planes that are read
    const Geometry* strided = nullptr;   // of the input, where its planes are read with strides
    bool is_split = false;
    bool is_few = false;
    std::uint32_t dense_taps = 2;                                    // that the dense kernel takes together of bytes
    std::size_t cache_bytes = 0, block_bytes = 0, matrix_bytes = 0;  // of the options
    std::uint32_t depthwise_taps = 1;  // inputs in a row that a tap of the depthwise kernel stands for, of bytes
    bool has_matrices = false;         // a kernel for them that takes such layers
    std::uint32_t fast_columns = 0;    // of a vector of the kernel with fewer products, if it takes such layers

    // The weights of a filter as kernels multiply with them: in integer inference whole numbers of 8 bits.
    void read_filter(std::uint32_t filter, std::vector<float>& to) const;
    // What the sums of a filter are multiplied with before everything else.
    float filter_scale(std::uint32_t filter) const;
};

// A tap's row or column in the planes that are read: phase, and pixels from the output's.
struct Tap {
    std::int64_t phase = 0, shift = 0;
};
Tap tap(std::uint32_t index, std::uint32_t dilation, std::int32_t pad, std::uint32_t stride);

// By `method` where that is possible, otherwise by products of vectors: lists are of signs alone, and matrices and
// fewer products of bytes.
Step make_conv_step(const ConvRequest& request, ConvMethod method);

// Where nothing is measured: `method`, or a better one in the place of the usual one.
ConvMethod untuned_method(const ConvRequest& request, ConvMethod method);
// What else is measured than the usual method, which makes a step of `kind`.
std::vector<ConvMethod> other_methods(const ConvRequest& request, StepKind kind);

}  // namespace sterna
