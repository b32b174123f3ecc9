// A transposed convolution as an ordinary one.
//
// Of stride s, row r of its output takes rows of the input that are r / s plus or minus a few, by weights that depend
// on r modulo s. So the output is split into phases, as the input of a strided convolution is: phase p holds the rows
// p, p + s, p + 2 s, ..., and is an ordinary convolution of stride 1 of the input. The phases of a channel are filters
// that follow each other; those of all channels are computed at once, and then merged.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/engine/graph.h"
#include "core/engine/shapes.h"
#include "core/engine/weights.h"

namespace sterna {

struct TransposedConv {
    // Phases of rows and of columns: the strides, or fewer where the output is smaller.
    std::uint32_t phase_rows = 1, phase_columns = 1;
    ConvShape shape;
    Shape output;  // of all phases: (channels x phases) planes
    // Filter `channel * phases + row * phase_columns + column`. A phase that has fewer weights than another has zeros.
    Weights weights;
    // What the channels of the input are multiplied with before, or nothing.
    std::vector<float> input_scale;

    std::uint32_t phases() const { return phase_rows * phase_columns; }
};

// Nothing, and a problem, if the phases have too many weights, or more than `max_bytes` of them. With `is_integer` the
// weights are whole numbers of 8 bits and a scale for each channel of the output, else signs or real numbers.
std::unique_ptr<TransposedConv> make_transposed_conv(const GraphNode& node, const Weights& weights, const Shape& output,
                                                     bool is_integer, std::uint64_t max_bytes, std::string& problem);

}  // namespace sterna
