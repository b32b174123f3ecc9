// Convolutions whose weights are numbers: the first layer, layers with few zeros, int8 layers; and small products.
//
// The same shifted planes as in the sparse convolution, with a multiplication for each tap. Of bytes two taps (or four,
// where the processor multiplies bytes) are taken together: their inputs are interleaved, multiplied with as many
// weights, and summed in 32 bits.
#pragma once

#include "core/kernels/image_ops/rows.h"

namespace sterna::STERNA_ISA {
namespace {

// Vectors of a tile; with kFiltersPerBlock filters the sums fill half of the registers.
#if defined(__AVX512F__)
inline constexpr std::size_t kDenseVectors = 4;
#else
inline constexpr std::size_t kDenseVectors = 2;
#endif

// Sums of `kFiltersPerBlock` filters: index i is vector i % Vectors of filter i / Vectors.
template <std::size_t Vectors, std::size_t... V, std::size_t... I>
inline void dense_tile_float32(const DenseConv& conv, const float* input, const float* weights, float* sums,
                               std::index_sequence<V...>, std::index_sequence<I...>) {
    Floats total[kFiltersPerBlock * Vectors] = {((void)I, Floats{})...};
    for (std::uint32_t tap = 0; tap < conv.taps; ++tap, weights += kFiltersPerBlock) {
        const float* const at = input + conv.offsets[tap];
        const Floats x[Vectors] = {load<float, kVectorBytes>(at + V * kFloatLanes)...};
        ((total[I] = multiply_add(x[I % Vectors], broadcast(weights[I / Vectors]), total[I])), ...);
    }
    (store(sums + I * kFloatLanes, total[I]), ...);
}

// Of bytes the taps that are taken together are interleaved once for a tile, for all filters of a group. A tile has as
// many elements as the longest vectors: what follows the sums has a price for each filter of a tile.
inline constexpr std::size_t kDensePieces = kAlignment / kVectorBytes;
#if defined(__AVX512VNNI__)
inline constexpr std::uint32_t kDenseTaps = 4;
using Packed = Quarters;

inline Packed pack(const std::uint8_t* input, const std::int32_t* at) {
    const auto bytes = [&](std::size_t i) { return load<std::uint8_t, kVectorBytes>(input + at[i]); };
    return interleave_bytes(bytes(0), bytes(1), bytes(2), bytes(3));
}

template <std::size_t... F>
inline void dense_piece(const Packed* x, std::uint32_t count, const void* weights, Quarters* sums,
                        std::index_sequence<F...>) {
    Ints total[kFiltersPerBlock][4] = {};
    const std::int8_t* quad = static_cast<const std::int8_t*>(weights);
    for (std::uint32_t i = 0; i < count; ++i, quad += 4 * kFiltersPerBlock) {
        ((total[F][0] = multiply_add_quads(x[i].part[0], broadcast_quad(quad + 4 * F), total[F][0]),
          total[F][1] = multiply_add_quads(x[i].part[1], broadcast_quad(quad + 4 * F), total[F][1]),
          total[F][2] = multiply_add_quads(x[i].part[2], broadcast_quad(quad + 4 * F), total[F][2]),
          total[F][3] = multiply_add_quads(x[i].part[3], broadcast_quad(quad + 4 * F), total[F][3])),
         ...);
    }
    ((sums[F * kDensePieces] = {{total[F][0], total[F][1], total[F][2], total[F][3]}}), ...);
}
#else
inline constexpr std::uint32_t kDenseTaps = 2;
using Packed = WidePairs;

inline Packed pack(const std::uint8_t* input, const std::int32_t* at) {
    return interleave_wide(load<std::uint8_t, kVectorBytes>(input + at[0]),
                           load<std::uint8_t, kVectorBytes>(input + at[1]));
}

// Two parts at a time, so that the sums of a block fit the registers.
template <std::size_t... F>
inline void dense_piece(const Packed* x, std::uint32_t count, const void* weights, Quarters* sums,
                        std::index_sequence<F...>) {
    for (std::size_t p = 0; p < 4; p += 2) {
        Ints low[kFiltersPerBlock] = {((void)F, Ints{})...};
        Ints high[kFiltersPerBlock] = {((void)F, Ints{})...};
        const std::int16_t* pair = static_cast<const std::int16_t*>(weights);
        const Shorts* at = x->part + p;
        for (std::uint32_t i = 0; i < count; ++i, pair += 2 * kFiltersPerBlock, at += 4) {
            kept(pair);
            kept(at);
            const Shorts a = at[0], b = at[1];
            const Shorts w[] = {broadcast_pair(pair + 2 * F)...};
            ((low[F] = multiply_add_pairs(a, w[F], low[F])), ...);
            ((high[F] = multiply_add_pairs(b, w[F], high[F])), ...);
        }
        ((sums[F * kDensePieces].part[p] = low[F], sums[F * kDensePieces].part[p + 1] = high[F]), ...);
    }
}
#endif
// Taps that are packed at a time: 32 KiB at most.
inline constexpr std::uint32_t kPackedTaps = 256;

// Calls `work` with the number in its block and the number of each filter of a block.
template <class Work>
inline void for_filters(const DenseConv& conv, std::uint32_t block, const Work& work) {
    const std::uint32_t group = block / conv.blocks_per_group;
    const std::uint32_t in_group = (block - group * conv.blocks_per_group) * kFiltersPerBlock;
    for (std::uint32_t f = 0; f < kFiltersPerBlock && in_group + f < conv.filters_per_group; ++f) {
        work(f, group * conv.filters_per_group + in_group + f);
    }
}

template <std::size_t Count>
inline void dense_block(const DenseConv& conv, std::uint32_t block, std::size_t flat) {
    constexpr std::size_t kVectors = Count / kFloatLanes;
    alignas(kAlignment) float sums[kFiltersPerBlock * Count];
    const std::uint32_t group = block / conv.blocks_per_group;
    const float* const input = static_cast<const float*>(conv.input) + group * conv.group_stride + flat;
    const float* const weights =
        static_cast<const float*>(conv.weights) + std::size_t{block} * conv.taps * kFiltersPerBlock;
    dense_tile_float32<kVectors>(conv, input, weights, sums, std::make_index_sequence<kVectors>{},
                                 std::make_index_sequence<kFiltersPerBlock * kVectors>{});
    for_filters(conv, block, [&](std::uint32_t f, std::uint32_t filter) {
        finish<Count>(sums + f * Count, 0, conv.epilogue, filter, flat, conv.output);
    });
}

template <std::size_t Count>
void dense_tiles(const DenseConv& conv, std::uint32_t first, std::uint32_t last, std::size_t flat) {
    const std::size_t span = (conv.output.span() + kFloatLanes - 1) / kFloatLanes * kFloatLanes;
    for (; flat + Count <= span; flat += Count) {
        for (std::uint32_t block = first; block < last; ++block) dense_block<Count>(conv, block, flat);
    }
    if constexpr (Count > kFloatLanes) {
        if (flat < span) dense_tiles<Count / 2>(conv, first, last, flat);
    }
}

// One tile of blocks `first` to `last`, which are of one group.
inline void dense_tile_of_group(const DenseConv& conv, std::uint32_t first, std::uint32_t last, std::size_t flat) {
    constexpr std::size_t kWeightBytes = 4 / kDenseTaps;
    constexpr auto kFilters = std::make_index_sequence<kFiltersPerBlock>{};
    Quarters sums[kFiltersPerBlock * kDensePieces];
    Quarters total[kFiltersPerBlock * kDensePieces];
    Packed packed[kDensePieces][kPackedTaps / kDenseTaps];
    const std::uint8_t* const input =
        static_cast<const std::uint8_t*>(conv.input) + first / conv.blocks_per_group * conv.group_stride + flat;
    // Filters with more taps than are packed at a time pack anew for each block.
    const bool is_packed_once = conv.taps <= kPackedTaps;
    for (std::uint32_t block = first; block < last; ++block) {
        const std::uint8_t* weights = static_cast<const std::uint8_t*>(conv.weights) +
                                      std::size_t{block} * conv.taps * kFiltersPerBlock * kWeightBytes;
        for (std::uint32_t begin = 0; begin < conv.taps; begin += kPackedTaps) {
            const std::uint32_t taps = conv.taps - begin < kPackedTaps ? conv.taps - begin : kPackedTaps;
            Quarters* const to = begin == 0 ? total : sums;
            for (std::size_t piece = 0; piece < kDensePieces; ++piece) {
                if (!is_packed_once || block == first) {
                    for (std::uint32_t i = 0; i < taps / kDenseTaps; ++i) {
                        packed[piece][i] = pack(input + piece * kVectorBytes, conv.offsets + begin + i * kDenseTaps);
                    }
                }
                dense_piece(packed[piece], taps / kDenseTaps, weights, to + piece, kFilters);
            }
            if (begin != 0) {
                for (std::size_t i = 0; i < kFiltersPerBlock * kDensePieces; ++i) {
                    for (std::size_t p = 0; p < 4; ++p) total[i].part[p] += sums[i].part[p];
                }
            }
            weights += std::size_t{taps} * kFiltersPerBlock * kWeightBytes;
        }
        for_filters(conv, block, [&](std::uint32_t f, std::uint32_t filter) {
            finish_tile<Layout::kPlain, kDensePieces>(total[f * kDensePieces].part, conv.excess[filter], conv.epilogue,
                                                      filter, flat, conv.output);
        });
    }
}

void dense_byte_tiles(const DenseConv& conv, std::uint32_t first, std::uint32_t last) {
    const std::size_t span = conv.output.span();
    for (std::uint32_t begin = first; begin < last;) {
        const std::uint32_t group_end = (begin / conv.blocks_per_group + 1) * conv.blocks_per_group;
        const std::uint32_t end = group_end < last ? group_end : last;
        for (std::size_t flat = 0; flat < span; flat += kAlignment) dense_tile_of_group(conv, begin, end, flat);
        begin = end;
    }
}

inline void clear_block_gaps(const DenseConv& conv, std::uint32_t first, std::uint32_t last) {
    for (std::uint32_t block = first; block < last; ++block) {
        for_filters(conv, block,
                    [&](std::uint32_t, std::uint32_t filter) { clear_gaps(conv.output, filter, filter + 1); });
    }
}

inline void dense_conv(const DenseConv& conv, std::uint32_t first, std::uint32_t last) {
    if (conv.element == Element::kFloat32) {
        dense_tiles<kDenseVectors * kFloatLanes>(conv, first, last, 0);
    } else {
        dense_byte_tiles(conv, first, last);
    }
    clear_block_gaps(conv, first, last);
}

// The sum in `kParts` parts, so that it vectorizes and has one order on every instruction set.
template <class W, class T, class Sum>
inline Sum dot(const W* weights, const T* x, std::size_t count) {
    constexpr std::size_t kParts = 16;
    Sum parts[kParts] = {};
    std::size_t i = 0;
    for (; i + kParts <= count; i += kParts) {
        for (std::size_t j = 0; j < kParts; ++j) {
            parts[j] += static_cast<Sum>(weights[i + j]) * static_cast<Sum>(x[i + j]);
        }
    }
    Sum total{};
    for (; i < count; ++i) total += static_cast<Sum>(weights[i]) * static_cast<Sum>(x[i]);
    for (std::size_t j = 0; j < kParts; ++j) total += parts[j];
    return total;
}

template <class W, class T, class Sum>
void dense_dots(const DenseDot& product, std::uint32_t first, std::uint32_t last) {
    const std::size_t span = product.output.span();
    for (std::uint32_t filter = first; filter < last; ++filter) {
        const W* const weights = static_cast<const W*>(product.weights) + std::size_t{filter} * product.taps;
        const T* const input =
            static_cast<const T*>(product.input) + filter / product.filters_per_group * product.group_stride;
        for (std::size_t flat = 0; flat < span; ++flat) {
            const T* const x = input + flat;
            Sum total{};
            if (product.offsets != nullptr) {
                for (std::uint32_t i = 0; i < product.taps; ++i) {
                    total += static_cast<Sum>(weights[i]) * static_cast<Sum>(x[product.offsets[i]]);
                }
            } else if (product.tap_stride == 1) {
                total = dot<W, T, Sum>(weights, x, product.taps);
            } else {
                for (std::uint32_t i = 0; i < product.taps; ++i) {
                    total += static_cast<Sum>(weights[i]) * static_cast<Sum>(x[i * product.tap_stride]);
                }
            }
            finish<1>(&total, product.excess[filter], product.epilogue, filter, flat, product.output);
        }
    }
}

inline void dense_dot(const DenseDot& product, std::uint32_t first, std::uint32_t last) {
    if (product.element == Element::kFloat32) {
        dense_dots<float, float, float>(product, first, last);
    } else {
        dense_dots<std::int16_t, std::uint8_t, std::int32_t>(product, first, last);
    }
    clear_gaps(product.output, first, last);
}

}  // namespace
}  // namespace sterna::STERNA_ISA
