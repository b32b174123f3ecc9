// Convolutions whose weights are numbers: the first layer, layers with few zeros, int8 layers; and small products.
//
// The same shifted planes as in the sparse convolution, with a multiplication for each tap. Of bytes two taps (or four, where
// the processor multiplies bytes) are taken together: their inputs are interleaved, multiplied with as many weights, and summed
// in 32 bits.
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

#if defined(__AVX512VNNI__)
inline constexpr std::uint32_t kDenseTaps = 4;

template <std::size_t... F>
inline void dense_tile_uint8(const DenseConv& conv, const std::uint8_t* input, const void* weights, std::int32_t* sums,
                             std::index_sequence<F...>) {
    Ints total[kFiltersPerBlock][4] = {};
    const std::int8_t* quad = static_cast<const std::int8_t*>(weights);
    for (std::uint32_t tap = 0; tap < conv.taps; tap += 4, quad += 4 * kFiltersPerBlock) {
        const std::int32_t* const at = conv.offsets + tap;
        const Quads x = interleave_bytes(input + at[0], input + at[1], input + at[2], input + at[3]);
        ((total[F][0] = multiply_add_quads(x.part[0], broadcast_quad(quad + 4 * F), total[F][0]),
          total[F][1] = multiply_add_quads(x.part[1], broadcast_quad(quad + 4 * F), total[F][1]),
          total[F][2] = multiply_add_quads(x.part[2], broadcast_quad(quad + 4 * F), total[F][2]),
          total[F][3] = multiply_add_quads(x.part[3], broadcast_quad(quad + 4 * F), total[F][3])),
         ...);
    }
    (store_quads(sums + F * kVectorBytes, total[F]), ...);
}
inline constexpr std::size_t kDenseBytes = kVectorBytes;  // elements of a tile
#else
inline constexpr std::uint32_t kDenseTaps = 2;

template <std::size_t... F>
inline void dense_tile_uint8(const DenseConv& conv, const std::uint8_t* input, const void* weights, std::int32_t* sums,
                             std::index_sequence<F...>) {
    Ints low[kFiltersPerBlock] = {((void)F, Ints{})...};
    Ints high[kFiltersPerBlock] = {((void)F, Ints{})...};
    const std::int16_t* pair = static_cast<const std::int16_t*>(weights);
    for (std::uint32_t tap = 0; tap < conv.taps; tap += 2, pair += 2 * kFiltersPerBlock) {
        const Interleaved x =
            interleave(load_shorts(input + conv.offsets[tap]), load_shorts(input + conv.offsets[tap + 1]));
        ((low[F] = multiply_add_pairs(x.low, broadcast_pair(pair + 2 * F), low[F])), ...);
        ((high[F] = multiply_add_pairs(x.high, broadcast_pair(pair + 2 * F), high[F])), ...);
    }
    (store_interleaved(sums + F * kShortLanes, low[F], high[F]), ...);
}
inline constexpr std::size_t kDenseBytes = kShortLanes;
#endif

template <class T, std::size_t Count>
inline void dense_block(const DenseConv& conv, std::uint32_t block, std::size_t flat) {
    using Sum = std::conditional_t<std::is_same_v<T, float>, float, std::int32_t>;
    alignas(kAlignment) Sum sums[kFiltersPerBlock * Count];
    const std::uint32_t group = block / conv.blocks_per_group;
    const T* const input = static_cast<const T*>(conv.input) + group * conv.group_stride + flat;
    const std::size_t first_weight = std::size_t{block} * conv.taps * kFiltersPerBlock;
    if constexpr (std::is_same_v<T, float>) {
        constexpr std::size_t kVectors = Count / kFloatLanes;
        dense_tile_float32<kVectors>(conv, input, static_cast<const float*>(conv.weights) + first_weight, sums,
                                     std::make_index_sequence<kVectors>{},
                                     std::make_index_sequence<kFiltersPerBlock * kVectors>{});
    } else {
        constexpr std::size_t kWeightBytes = 4 / kDenseTaps;
        dense_tile_uint8(conv, input, static_cast<const std::uint8_t*>(conv.weights) + first_weight * kWeightBytes, sums,
                         std::make_index_sequence<kFiltersPerBlock>{});
    }
    const std::uint32_t in_group = (block - group * conv.blocks_per_group) * kFiltersPerBlock;
    for (std::uint32_t f = 0; f < kFiltersPerBlock && in_group + f < conv.filters_per_group; ++f) {
        const std::uint32_t filter = group * conv.filters_per_group + in_group + f;
        finish<Count>(sums + f * Count, conv.excess[filter], conv.epilogue, filter, flat, conv.output);
    }
}

template <class T, std::size_t Count, std::size_t Least>
void dense_tiles(const DenseConv& conv, std::uint32_t first, std::uint32_t last, std::size_t flat) {
    const std::size_t span = (conv.output.span() + Least - 1) / Least * Least;
    for (; flat + Count <= span; flat += Count) {
        for (std::uint32_t block = first; block < last; ++block) dense_block<T, Count>(conv, block, flat);
    }
    if constexpr (Count > Least) {
        if (flat < span) dense_tiles<T, Count / 2, Least>(conv, first, last, flat);
    }
}

inline void clear_block_tails(const DenseConv& conv, std::uint32_t first, std::uint32_t last) {
    for (std::uint32_t block = first; block < last; ++block) {
        const std::uint32_t group = block / conv.blocks_per_group;
        const std::uint32_t in_group = (block - group * conv.blocks_per_group) * kFiltersPerBlock;
        const std::uint32_t left = conv.filters_per_group - in_group;
        const std::uint32_t filter = group * conv.filters_per_group + in_group;
        clear_tails(conv.output, filter, filter + (left < kFiltersPerBlock ? left : kFiltersPerBlock));
    }
}

inline void dense_conv(const DenseConv& conv, std::uint32_t first, std::uint32_t last) {
    clear_block_tails(conv, first, last);
    if (conv.element == Element::kFloat32) {
        dense_tiles<float, kDenseVectors * kFloatLanes, kFloatLanes>(conv, first, last, 0);
    } else {
        dense_tiles<std::uint8_t, kDenseBytes, kDenseBytes>(conv, first, last, 0);
    }
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
        const T* const input = static_cast<const T*>(product.input) +
                               filter / product.filters_per_group * product.group_stride;
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
    clear_tails(product.output, first, last);
    if (product.element == Element::kFloat32) {
        dense_dots<float, float, float>(product, first, last);
    } else {
        dense_dots<std::int16_t, std::uint8_t, std::int32_t>(product, first, last);
    }
}

}  // namespace
}  // namespace sterna::STERNA_ISA
