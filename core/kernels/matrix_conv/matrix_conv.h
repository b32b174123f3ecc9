// Convolutions of bytes by products of small matrices in tile registers: every weight is multiplied, zeros too.
//
// A matrix of weights has a row for each of sixteen filters, one of inputs a column for each of sixteen elements; their
// product is added to one of sums. Four matrices of sums are kept at a time, of 32 filters and 32 elements. Inputs are
// interleaved in fours once for all filters, in a copy that taps of one plane share: there a tap is an offset of its
// own, as everywhere.
//
// `Tiles` are the registers: those of the processor (amx_tiles.h), or in tests a plain computation of what they do.
#pragma once

#include "core/kernels/image_ops/rows.h"
#include "core/kernels/matrix_conv/tile_config.h"

namespace sterna::STERNA_ISA {
namespace {

// Elements of a matrix of inputs, and of a tile of the output: two pairs of matrices.
inline constexpr std::size_t kMatrixElements = 16;
inline constexpr std::size_t kMatrixPair = 2 * kMatrixElements;
inline constexpr std::size_t kMatrixTile = kAlignment;
static_assert(kMatrixFilters == 2 * kMatrixRows && kMatrixTile % kMatrixPair == 0);

// Registers 0 to 3 are sums, 4 and 5 weights, 6 and 7 inputs.
inline TileConfig matrix_config(std::uint32_t step_rows) {
    TileConfig config;
    for (unsigned tile = 0; tile < kTileRegisters; ++tile) {
        const bool is_weights = tile == 4 || tile == 5, is_inputs = tile >= 6;
        config.rows[tile] = static_cast<std::uint8_t>(is_inputs ? step_rows : kMatrixRows);
        config.row_bytes[tile] = static_cast<std::uint16_t>(is_weights ? kMatrixFour * step_rows : kMatrixRowBytes);
    }
    return config;
}

// Four bytes of each element, those of one element next to each other, in the order of the elements.
inline void interleave_fours(const std::uint8_t* const (&from)[kMatrixFour], std::size_t at, std::uint8_t* to) {
    Bytes x[kMatrixFour];
    for (std::size_t i = 0; i < kMatrixFour; ++i) x[i] = load<std::uint8_t, kVectorBytes>(from[i] + at);
#if defined(__AVX512VNNI__)
    const Quarters fours = interleave_bytes(transposed_words(x[0]), transposed_words(x[1]), transposed_words(x[2]),
                                            transposed_words(x[3]));
    for (std::size_t p = 0; p < 4; ++p) store(to + p * kVectorBytes, fours.part[p]);
#else
    for (std::size_t element = 0; element < kVectorBytes; ++element) {
        for (std::size_t i = 0; i < kMatrixFour; ++i) to[kMatrixFour * element + i] = x[i][element];
    }
#endif
}

// Rows of inputs for `count` elements from `flat` on, and for what taps read before and behind them.
inline void take_inputs(const MatrixConv& conv, std::size_t flat, std::size_t count, std::uint8_t* rows) {
    const std::size_t elements = count + static_cast<std::size_t>(conv.highest_shift - conv.lowest_shift);
    for (std::uint32_t row = 0; row < conv.rows; ++row, rows += conv.row_bytes()) {
        const std::uint8_t* from[kMatrixFour];
        for (std::size_t i = 0; i < kMatrixFour; ++i) {
            from[i] = conv.input + conv.offsets[kMatrixFour * row + i] + static_cast<std::ptrdiff_t>(flat) +
                      conv.lowest_shift;
        }
        std::size_t at = 0;
        for (; at + kVectorBytes <= elements; at += kVectorBytes) interleave_fours(from, at, rows + kMatrixFour * at);
        // Nothing behind the last element: it may be the last one of all planes.
        if (at < elements) {
            at = elements - kVectorBytes;
            interleave_fours(from, at, rows + kMatrixFour * at);
        }
    }
}

// Signs of packed codes (packed_dot.h).
inline void unpack_signs(const std::uint8_t* packed, std::size_t count, std::uint8_t* to) {
    for (std::size_t i = 0; i < count; i += kPackedGroup, to += kPackedGroup) {
        for (std::size_t at = 0; at < kPackedBytes; at += kVectorBytes, packed += kVectorBytes) {
            const Vector<std::uint16_t, kVectorBytes> codes = load_pairs(packed);
            for (std::size_t k = 0; k < kPackedPerByte; ++k) {
                store(to + k * kPackedBytes + at, (Bytes)((codes >> (2 * k)) & 0x0303) - std::uint8_t{1});
            }
        }
    }
}

// The sums of a block of filters for a pair of matrices of elements. `inputs` are those of the first element, at no
// shift.
template <class Tiles>
inline void sum_pair(Tiles& tiles, const MatrixConv& conv, const std::uint8_t* weights, const std::uint8_t* inputs,
                     std::int32_t* sums) {
    // Copies, since whatever is in memory may change with every load of a tile.
    const std::size_t row_bytes = conv.row_bytes(), step_bytes = conv.step_bytes();
    const std::size_t filter_bytes = step_bytes / kMatrixFilters;
    const std::int32_t lowest = conv.lowest_shift;
    const MatrixStep* const end = conv.steps + conv.step_count;
    tiles.template clear<0>();
    tiles.template clear<1>();
    tiles.template clear<2>();
    tiles.template clear<3>();
    for (const MatrixStep* step = conv.steps; step != end; ++step, weights += step_bytes) {
        const std::uint8_t* const x =
            inputs + step->row * row_bytes + kMatrixFour * static_cast<std::size_t>(step->shift - lowest);
        tiles.template load<4>(weights, filter_bytes);
        tiles.template load<6>(x, row_bytes);
        tiles.template load<7>(x + kMatrixRowBytes, row_bytes);
        tiles.template load<5>(weights + kMatrixRows * filter_bytes, filter_bytes);
        tiles.template multiply_add<0, 4, 6>();
        tiles.template multiply_add<1, 4, 7>();
        tiles.template multiply_add<2, 5, 6>();
        tiles.template multiply_add<3, 5, 7>();
    }
    constexpr std::size_t kStride = kMatrixTile * sizeof(std::int32_t);
    tiles.template store<0>(sums, kStride);
    tiles.template store<1>(sums + kMatrixElements, kStride);
    tiles.template store<2>(sums + kMatrixRows * kMatrixTile, kStride);
    tiles.template store<3>(sums + kMatrixRows * kMatrixTile + kMatrixElements, kStride);
}

// Blocks `first` to `last` of kMatrixFilters filters. `scratch` has scratch_bytes().
template <class Tiles>
void multiply_matrices(const MatrixConv& conv, unsigned char* scratch, std::uint32_t first, std::uint32_t last) {
    constexpr std::size_t kVectors = kMatrixTile / kVectorBytes;
    Ints sums[kMatrixFilters * kMatrixTile / kFloatLanes] = {};
    const std::size_t odd = reinterpret_cast<std::uintptr_t>(scratch) % kAlignment;
    std::uint8_t* const inputs = scratch + (odd == 0 ? 0 : kAlignment - odd);
    std::uint8_t* const unpacked = inputs + conv.rows * conv.row_bytes();
    const std::size_t span = conv.output.span();
    const std::uint32_t end = last * kMatrixFilters < conv.filters ? last * kMatrixFilters : conv.filters;
    const TileConfig config = matrix_config(conv.step_rows);
    Tiles tiles(config);
    for (std::size_t run = 0; run < span; run += conv.run) {
        const std::size_t left = (span - run + kMatrixTile - 1) / kMatrixTile * kMatrixTile;
        const std::size_t count = left < conv.run ? left : conv.run;
        take_inputs(conv, run, count, inputs);
        for (std::uint32_t block = first; block < last; ++block) {
            const std::uint8_t* weights = static_cast<const std::uint8_t*>(conv.weights) + block * conv.block_bytes();
            if (conv.is_packed) {
                unpack_signs(weights, conv.block_weights(), unpacked);
                weights = unpacked;
            }
            const std::uint32_t filter = block * kMatrixFilters;
            const std::uint32_t filters = end - filter < kMatrixFilters ? end - filter : kMatrixFilters;
            for (std::size_t at = 0; at < count; at += kMatrixTile) {
                for (std::size_t pair = 0; pair < kMatrixTile && run + at + pair < span; pair += kMatrixPair) {
                    sum_pair(tiles, conv, weights, inputs + kMatrixFour * (at + pair),
                             reinterpret_cast<std::int32_t*>(sums) + pair);
                }
                for (std::uint32_t f = 0; f < filters; ++f) {
                    finish_tile<Layout::kInOrder, kVectors>(sums + f * kMatrixTile / kFloatLanes,
                                                            conv.excess[filter + f], conv.epilogue, filter + f,
                                                            run + at, conv.output);
                }
            }
        }
    }
    clear_gaps(conv.output, first * kMatrixFilters, end);
}

}  // namespace
}  // namespace sterna::STERNA_ISA
