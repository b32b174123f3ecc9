// Convolutions whose weights are numbers: the first layer, layers with few zeros, int8 layers; and small products.
//
// The same shifted planes as in the sparse convolution, with a multiplication for each tap. In int16 two taps are taken
// together: their inputs are interleaved, multiplied with pairs of weights, and summed in 32 bits.
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

// `Vectors` counts vectors of int16.
template <std::size_t Vectors, std::size_t... V, std::size_t... I>
inline void dense_tile_int16(const DenseConv& conv, const std::int16_t* input, const std::int16_t* weights,
                             std::int32_t* sums, std::index_sequence<V...>, std::index_sequence<I...>) {
    Ints low[kFiltersPerBlock * Vectors] = {((void)I, Ints{})...};
    Ints high[kFiltersPerBlock * Vectors] = {((void)I, Ints{})...};
    for (std::uint32_t tap = 0; tap < conv.taps; tap += 2, weights += 2 * kFiltersPerBlock) {
        const std::int16_t* const a = input + conv.offsets[tap];
        const std::int16_t* const b = input + conv.offsets[tap + 1];
        const Interleaved x[Vectors] = {interleave(load<std::int16_t, kVectorBytes>(a + V * kShortLanes),
                                                   load<std::int16_t, kVectorBytes>(b + V * kShortLanes))...};
        ((low[I] = multiply_add_pairs(x[I % Vectors].low, broadcast_pair(weights + I / Vectors * 2), low[I])), ...);
        ((high[I] = multiply_add_pairs(x[I % Vectors].high, broadcast_pair(weights + I / Vectors * 2), high[I])), ...);
    }
    (store_interleaved(sums + I * kShortLanes, low[I], high[I]), ...);
}

template <class T, class Sum, std::size_t Vectors>
inline void dense_block(const DenseConv& conv, std::uint32_t block, std::size_t flat) {
    constexpr std::size_t kCount = Vectors * kVectorBytes / sizeof(T);
    constexpr auto kVectors = std::make_index_sequence<Vectors>{};
    constexpr auto kSums = std::make_index_sequence<kFiltersPerBlock * Vectors>{};
    alignas(kAlignment) Sum sums[kFiltersPerBlock * kCount];
    const std::uint32_t group = block / conv.blocks_per_group;
    const T* const input = static_cast<const T*>(conv.input) + group * conv.group_stride + flat;
    const T* const weights = static_cast<const T*>(conv.weights) + std::size_t{block} * conv.taps * kFiltersPerBlock;
    if constexpr (sizeof(T) == sizeof(float)) {
        dense_tile_float32<Vectors>(conv, input, weights, sums, kVectors, kSums);
    } else {
        dense_tile_int16<Vectors>(conv, input, weights, sums, kVectors, kSums);
    }
    const std::uint32_t in_group = (block - group * conv.blocks_per_group) * kFiltersPerBlock;
    for (std::uint32_t f = 0; f < kFiltersPerBlock && in_group + f < conv.filters_per_group; ++f) {
        finish<kCount>(sums + f * kCount, conv.epilogue, group * conv.filters_per_group + in_group + f, flat,
                       conv.output);
    }
}

template <class T, class Sum, std::size_t Vectors>
void dense_tiles(const DenseConv& conv, std::uint32_t first, std::uint32_t last, std::size_t flat) {
    constexpr std::size_t kLanes = kVectorBytes / sizeof(T);
    const std::size_t span = (conv.output.span() + kLanes - 1) / kLanes * kLanes;
    for (; flat + Vectors * kLanes <= span; flat += Vectors * kLanes) {
        for (std::uint32_t block = first; block < last; ++block) dense_block<T, Sum, Vectors>(conv, block, flat);
    }
    if constexpr (Vectors > 1) {
        if (flat < span) dense_tiles<T, Sum, Vectors / 2>(conv, first, last, flat);
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
        dense_tiles<float, float, kDenseVectors>(conv, first, last, 0);
    } else {
        dense_tiles<std::int16_t, std::int32_t, kDenseVectors / 2>(conv, first, last, 0);
    }
}

// The sum in `kParts` parts, so that it vectorizes and has one order on every instruction set.
template <class T, class Sum>
inline Sum dot(const T* weights, const T* x, std::size_t count) {
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

template <class T, class Sum>
void dense_dots(const DenseDot& product, std::uint32_t first, std::uint32_t last) {
    const std::size_t span = product.output.span();
    for (std::uint32_t filter = first; filter < last; ++filter) {
        const T* const weights = static_cast<const T*>(product.weights) + std::size_t{filter} * product.taps;
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
                total = dot<T, Sum>(weights, x, product.taps);
            } else {
                for (std::uint32_t i = 0; i < product.taps; ++i) {
                    total += static_cast<Sum>(weights[i]) * static_cast<Sum>(x[i * product.tap_stride]);
                }
            }
            finish<1>(&total, product.epilogue, filter, flat, product.output);
        }
    }
}

inline void dense_dot(const DenseDot& product, std::uint32_t first, std::uint32_t last) {
    clear_tails(product.output, first, last);
    if (product.element == Element::kFloat32) {
        dense_dots<float, float>(product, first, last);
    } else {
        dense_dots<std::int16_t, std::int32_t>(product, first, last);
    }
}

}  // namespace
}  // namespace sterna::STERNA_ISA
