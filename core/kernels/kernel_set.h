// The one list of kernels: what an instruction set offers, by function pointers.
#pragma once

#include <cstdint>

#include "core/kernels/isa.h"
#include "core/kernels/kernel_types.h"

namespace sterna {

// Forms of the sparse convolution: vectors of a tile.
struct SparseForm {
    const char* name;
    void (*run_float32)(const SparseConv&, std::uint32_t first, std::uint32_t last);
    void (*run_uint8)(const SparseConv&, std::uint32_t first, std::uint32_t last);
};

enum class Pool : std::uint8_t { kMax, kAverage };

// A window of `kernel` by `kernel` pixels; pads are those before the first row and column.
struct PoolShape {
    std::uint32_t kernel_height = 1, kernel_width = 1;
    std::uint32_t stride_height = 1, stride_width = 1;
    std::uint32_t pad_top = 0, pad_left = 0, pad_bottom = 0, pad_right = 0;
    std::uint32_t dilation_height = 1, dilation_width = 1;
    bool count_include_pad = false;
};

// A plane for each phase of the strides: element (y, x) of plane `channel * phases + phase_y * stride_width + phase_x`
// is the input's (y * stride_height + phase_y, x * stride_width + phase_x), or zero outside of it.
struct SplitShape {
    std::uint32_t stride_height = 1, stride_width = 1;
    std::uint64_t phases = ~std::uint64_t{0};  // bits of those that are needed
    // Rows and columns of a phase that are filled after the last one of the output.
    std::uint32_t reach_bottom = 0, reach_right = 0;
};

enum class Resize : std::uint8_t { kNearest, kBilinear, kBilinearAlignCorners };

// All functions treat the channels `first` to `last` (excluded) of the output; rows of images need `scratch`.
struct KernelSet {
    const SparseForm* sparse_forms;
    std::uint32_t sparse_form_count;
    std::uint32_t untuned_form_float32, untuned_form_uint8;  // where nothing is measured
    void (*sparse_gather)(const SparseConv&, std::uint32_t first, std::uint32_t last);
    std::uint32_t dense_taps;  // that dense_conv takes together of bytes: 2 or 4
    // Blocks of filters instead of channels.
    void (*dense_conv)(const DenseConv&, std::uint32_t first, std::uint32_t last);
    void (*dense_dot)(const DenseDot&, std::uint32_t first, std::uint32_t last);
    // Scratch holds the inputs of one image, up to a multiple of kPackedGroup.
    void (*packed_dot)(const PackedDot&, float* scratch, std::uint32_t first, std::uint32_t last);
    std::uint32_t depthwise_taps;  // inputs in a row that a tap of bytes stands for: 1 or up to 3
    void (*depthwise_conv)(const DepthwiseConv&, std::uint32_t first, std::uint32_t last);
    // False if an element is not a finite number.
    bool (*load_images)(const float* images, std::size_t channels, const Planes& output, std::uint32_t first,
                        std::uint32_t last);
    void (*store_images)(const Planes& input, float* images, std::size_t channels, std::uint32_t first,
                         std::uint32_t last);
    // By channels of the input.
    void (*split)(const Planes& input, const SplitShape&, const Planes& output, std::uint32_t first,
                  std::uint32_t last);
    // The reverse, of an output split so: element (y, x) of channel c is (y / rows, x / columns) of plane
    // `c * rows * columns + y % rows * columns + x % columns`. Elements of one type and the same levels.
    void (*merge)(const Planes& input, std::uint32_t phase_rows, std::uint32_t phase_columns, const Planes& output,
                  std::uint32_t first, std::uint32_t last);
    void (*flatten)(const Planes& input, const Planes& output, float* scratch, std::uint32_t first, std::uint32_t last);
    void (*pool)(Pool, const Planes& input, const PoolShape&, const Planes& output, float* scratch, std::uint32_t first,
                 std::uint32_t last);
    void (*adaptive_pool)(Pool, const Planes& input, const Planes& output, float* scratch, std::uint32_t first,
                          std::uint32_t last);
    void (*resize)(Resize, const Planes& input, const Planes& output, float* scratch, std::uint32_t first,
                   std::uint32_t last);
    // Output channel c is the input's c - channels_before, at (pad_top, pad_left); zero elsewhere.
    void (*pad)(const Planes& input, std::uint32_t pad_top, std::uint32_t pad_left, std::uint32_t channels_before,
                const Planes& output, float* scratch, std::uint32_t first, std::uint32_t last);
    // y = activation(x * scale[c] + shift[c] + residual), by planes of one geometry; no scale and shift leave x.
    void (*map)(const Planes& input, const Epilogue&, const Planes& output, std::uint32_t first, std::uint32_t last);
    // y = a * b, or a + b; b has the geometry of a, or one element for each image and channel.
    void (*combine)(bool is_product, const Planes& a, const Planes& b, const Epilogue&, const Planes& output,
                    std::uint32_t first, std::uint32_t last);
    // Rows of a matrix or pixels of an image, over the channels; not by channels.
    void (*softmax)(const Planes& input, const Planes& output);
    // Blocks of kMatrixFilters filters; scratch has scratch_bytes(). Nothing where there are no registers for matrices.
    void (*matrix_conv)(const MatrixConv&, void* scratch, std::uint32_t first, std::uint32_t last) = nullptr;
    // Units of kFastFilters filters; scratch has scratch_bytes(). Nothing where the processor multiplies bytes, four at
    // a time: it gains nothing.
    void (*fast_conv)(const FastConv&, void* scratch, std::uint32_t first, std::uint32_t last) = nullptr;
    std::uint32_t fast_columns = 0;  // of a vector of it
};

// Of an available instruction set.
const KernelSet& kernels(Isa isa);

}  // namespace sterna
