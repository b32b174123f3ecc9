// What kernels are told: where planes lie, what is summed, and what follows the sums.
//
// An activation is kept as planes, one a channel. In a plane the images of a batch lie one after the other, their rows
// `pitch` elements apart, so that a plane is one flat vector. Elements between rows and images are zero: they are the
// padding of convolutions, on both sides at once. A tap of a convolution is then one offset for a whole plane.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sterna {

// Functions here are compiled for every instruction set under one linker name: they must be part of their callers, or
// one set's code could run on a processor of another.
#define STERNA_INLINE __attribute__((always_inline)) inline

// Elements are float32, or, in integer inference, levels of 8 bits.
enum class Element : std::uint8_t { kFloat32, kUint8 };

// In bytes.
STERNA_INLINE constexpr std::size_t size_of(Element element) {
    return element == Element::kFloat32 ? sizeof(float) : sizeof(std::uint8_t);
}

enum class Activation : std::uint8_t { kNone, kRelu, kRelu6, kHardswish, kSilu, kSigmoid, kHardsigmoid };

// Vectors of all instruction sets divide this; planes are multiples of it.
inline constexpr std::size_t kAlignment = 64;

// How a real number becomes a level: q = clamp(rint(y * inverse_step), lowest, highest), and back: q * step. Kept is
// the byte q + zero, with zero = 128 where levels may be negative; the zeros between pixels are kept so too.
struct Levels {
    std::uint8_t zero = 0;
    float step = 1.0f;
    float inverse_step = 1.0f;
    float lowest = 0.0f;
    float highest = 0.0f;
};

// Planes of one value. `origin` is the element (0, 0, 0, 0).
struct Planes {
    void* origin = nullptr;
    Element element = Element::kFloat32;
    Levels levels;
    std::uint32_t channels = 0;
    std::uint32_t images = 0;
    std::uint32_t height = 0;
    std::uint32_t width = 0;
    std::size_t pitch = 0;
    std::size_t image_stride = 0;
    std::size_t plane_stride = 0;

    STERNA_INLINE bool is_same_geometry(const Planes& other) const {
        return images == other.images && height == other.height && width == other.width && pitch == other.pitch &&
               image_stride == other.image_stride;
    }
    // Elements of a plane from the first to the last pixel, what lies between included.
    STERNA_INLINE std::size_t span() const { return (images - 1) * image_stride + (height - 1) * pitch + width; }
};

// What is done to the sums of filter `o`: y = activation(sum * scale[o] + shift[o] + residual); then it is stored.
struct Epilogue {
    const float* scale = nullptr;
    const float* shift = nullptr;
    // Planes like those of the output, or nothing.
    const Planes* residual = nullptr;
    Activation activation = Activation::kNone;
    // Of bytes to levels: no sum that may be becomes a number whose level would be 2^22 or more, nor is a scale so
    // small that its numbers lose digits.
    bool is_bounded = false;
};

// Offsets of inputs to add, and of inputs to subtract; of bytes at most kMaxTerms each, so that their sum fits int16.
inline constexpr std::uint32_t kMaxTerms = 128;
struct Chunk {
    std::uint32_t added = 0;
    std::uint32_t subtracted = 0;
};

// Sums of bytes with a zero of 128 hold that zero as often as the sum of the weights says: `excess` is what is too
// much.

// A convolution whose weights are signs: for every block of channels and filter, chunks of offsets. List
// `block * filters + filter` may be empty, but has a chunk.
struct SparseConv {
    const void* input = nullptr;
    Element element = Element::kFloat32;
    const std::int32_t* offsets = nullptr;
    const std::uint32_t* offset_begin = nullptr;  // by list
    const Chunk* chunks = nullptr;
    const std::uint32_t* chunk_begin = nullptr;  // by list, and one more
    std::uint32_t filters = 0, blocks = 1;
    std::size_t run_bytes = 0;             // of a plane that one filter sums before the next; a tile at least
    const std::int32_t* excess = nullptr;  // by filter; of bytes
    Planes output;
    Epilogue epilogue;
};

// A convolution whose weights are numbers, in blocks of `kFiltersPerBlock` filters of one group.
inline constexpr std::uint32_t kFiltersPerBlock = 4;

struct DenseConv {
    const void* input = nullptr;
    Element element = Element::kFloat32;
    std::uint32_t taps = 0;  // inputs of a filter; of bytes a multiple of the taps that are taken together
    const std::int32_t* offsets = nullptr;  // [taps] of the first group
    std::size_t group_stride = 0;           // from one group's inputs to the next one's
    std::uint32_t filters_per_group = 0;
    std::uint32_t blocks_per_group = 0;
    // float32 [block][tap][filter]; for bytes int16 [block][tap / 2][filter][2] or int8 [block][tap / 4][filter][4]
    const void* weights = nullptr;
    const std::int32_t* excess = nullptr;
    Planes output;
    Epilogue epilogue;
};

// The same of bytes with fewer multiplications, for one group and no dilation (fast_conv.h). A filter has in each plane
// that it reads, a phase of a channel, a rectangle of at most kFastTaps rows and columns of taps.
inline constexpr std::uint32_t kFastTaps = 4;
inline constexpr std::uint32_t kFastFilters = 16;  // that take their inputs together
inline constexpr std::size_t kFastVectors = 4;     // of a run at most

struct FastPlane {
    std::int32_t offset = 0;  // of the first tap
    std::uint32_t rows = 0, columns = 0;
};

struct FastConv {
    const std::uint8_t* input = nullptr;
    const FastPlane* planes = nullptr;
    std::uint32_t plane_count = 0;
    std::uint32_t rows = 0, columns = 0;  // most of a plane; there is one point more in each dimension
    // Products of a point follow each other, in pairs. By plane and its points, column by column: the number of the
    // product.
    const std::uint32_t* slots = nullptr;
    const std::uint32_t* point_pairs = nullptr;  // by point, row by row; one at least
    std::uint32_t pairs = 0;                     // of all points
    const std::int16_t* weights = nullptr;       // [block of kFiltersPerBlock][pair][filter][2]
    std::uint32_t filters = 0;
    // Sums are too large: four times an odd number, of which this is the inverse modulo 2^32.
    std::uint32_t inverse = 1;
    std::size_t run = 0;  // columns whose inputs are taken before the next ones; a multiple of a vector
    const std::int32_t* excess = nullptr;
    Planes output;  // of two rows at least
    Epilogue epilogue;

    // Memory for the inputs of a run, and what aligns it.
    STERNA_INLINE std::size_t scratch_bytes() const { return kAlignment + 2 * pairs * run; }
};

// One filter a channel, or several; weights are float32, or int16 of an even number of taps, [filter][tap], or int8 of
// taps that stand for up to three inputs in a row, [filter][tap][kDepthwiseQuad].
inline constexpr std::uint32_t kDepthwiseQuad = 4;

struct DepthwiseConv {
    const void* input = nullptr;
    Element element = Element::kFloat32;
    std::uint32_t taps = 0;
    const std::int32_t* offsets = nullptr;  // [taps] of the first channel
    std::size_t channel_stride = 0;
    // Of an input of which every second column is read: from what a row and an image of the output reads to the next
    // one. Otherwise 0: the input has the geometry of the output.
    std::size_t row_stride = 0, image_stride = 0;
    std::uint32_t filters_per_channel = 1;
    const void* weights = nullptr;
    const std::int32_t* excess = nullptr;
    Planes output;
    Epilogue epilogue;
};

// A convolution or product whose output has few elements a channel: y[o] = sum of weights[o][i] x[i].
struct DenseDot {
    const void* input = nullptr;
    Element element = Element::kFloat32;
    std::uint32_t taps = 0;                 // inputs of a filter
    const std::int32_t* offsets = nullptr;  // [taps] of the first group; nothing if they are `tap_stride` apart
    std::size_t tap_stride = 1;
    std::size_t group_stride = 0;
    std::uint32_t filters_per_group = 0;
    const void* weights = nullptr;  // float32 or int16, [filter][tap]
    const std::int32_t* excess = nullptr;
    Planes output;
    Epilogue epilogue;
};

// The same with signs in two bits each: groups of `kPackedGroup` weights of a filter take `kPackedBytes` bytes
// (packed_dot.h). All inputs are of one group, `tap_stride` apart.
inline constexpr std::size_t kPackedBytes = 64;
inline constexpr std::size_t kPackedPerByte = 4;
inline constexpr std::size_t kPackedGroup = kPackedBytes * kPackedPerByte;

struct PackedDot {
    const void* input = nullptr;
    Element element = Element::kFloat32;
    std::size_t width = 0;  // inputs of a filter
    std::size_t tap_stride = 1;
    const std::uint8_t* weights = nullptr;  // [filter][group][kPackedBytes]; codes of no weight have no effect
    const std::int32_t* excess = nullptr;
    Planes output;
    Epilogue epilogue;
};

// A convolution of bytes by products of small matrices, of at most kMatrixRows rows of kMatrixRowBytes bytes, for
// processors that have registers for them (matrix_conv.h). Inputs are taken as rows of fours: element i of row r holds
// the bytes input[offsets[4 r + 0..3] + i]. A step of the sum multiplies `step_rows` rows from `row` on, `shift`
// elements further, by as many fours of weights of each filter.
inline constexpr std::uint32_t kMatrixRows = 16;
inline constexpr std::uint32_t kMatrixRowBytes = 64;
inline constexpr std::uint32_t kMatrixFilters = 32;  // of a block
inline constexpr std::uint32_t kMatrixFour = 4;

struct MatrixStep {
    std::uint32_t row = 0;
    std::int32_t shift = 0;
};

struct MatrixConv {
    const std::uint8_t* input = nullptr;
    const std::int32_t* offsets = nullptr;  // [rows][4]
    std::uint32_t rows = 0;
    const MatrixStep* steps = nullptr;
    std::uint32_t step_count = 0, step_rows = 0;
    std::int32_t lowest_shift = 0, highest_shift = 0;
    std::size_t run = 0;  // elements of a plane whose inputs are taken before the next ones; a multiple of kAlignment
    // int8 [block][step][kMatrixFilters][4 step_rows]; or, packed, signs of the same places, the codes of a block in
    // groups as in PackedDot. Filters that are missing in the last block have weights of zero.
    const void* weights = nullptr;
    bool is_packed = false;
    std::uint32_t filters = 0;
    const std::int32_t* excess = nullptr;
    Planes output;
    Epilogue epilogue;

    // From a row of inputs to the next one. An odd number of cache lines: the rows of a step share no set of a cache.
    STERNA_INLINE std::size_t row_bytes() const {
        const std::size_t elements = run + static_cast<std::size_t>(highest_shift - lowest_shift);
        return (elements * kMatrixFour + kAlignment - 1) / kAlignment * kAlignment | kAlignment;
    }
    STERNA_INLINE std::size_t step_bytes() const { return std::size_t{kMatrixFilters} * kMatrixFour * step_rows; }
    // Weights of a block of filters: as bytes, up to a multiple of kPackedGroup where they are packed, and in memory.
    STERNA_INLINE std::size_t block_weights() const {
        const std::size_t bytes = step_count * step_bytes();
        return is_packed ? (bytes + kPackedGroup - 1) / kPackedGroup * kPackedGroup : bytes;
    }
    STERNA_INLINE std::size_t block_bytes() const {
        return is_packed ? block_weights() / kPackedPerByte : block_weights();
    }
    // Memory for rows of inputs and for the weights of a block, and what aligns it.
    STERNA_INLINE std::size_t scratch_bytes() const {
        return kAlignment + rows * row_bytes() + (is_packed ? block_weights() : 0);
    }
};

}  // namespace sterna
