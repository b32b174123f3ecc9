// Convolutions of one channel a filter.
#pragma once

#include "core/kernels/image_ops/rows.h"

namespace sterna::STERNA_ISA {
namespace {

template <std::size_t Vectors, std::size_t... V>
inline void depthwise_tile(const DepthwiseConv& conv, const float* input, std::uint32_t filter, std::size_t flat,
                           std::index_sequence<V...>) {
    alignas(kAlignment) float sums[Vectors * kFloatLanes];
    const float* const weights = static_cast<const float*>(conv.weights) + std::size_t{filter} * conv.taps;
    Floats total[Vectors] = {((void)V, Floats{})...};
    for (std::uint32_t tap = 0; tap < conv.taps; ++tap) {
        const float* const x = input + conv.offsets[tap];
        const Floats w = broadcast(weights[tap]);
        ((total[V] = multiply_add(load<float, kVectorBytes>(x + V * kFloatLanes), w, total[V])), ...);
    }
    (store(sums + V * kFloatLanes, total[V]), ...);
    finish<Vectors * kFloatLanes>(sums, 0, conv.epilogue, filter, flat, conv.output);
}

template <std::size_t Vectors, std::size_t... V>
inline void depthwise_tile(const DepthwiseConv& conv, const std::uint8_t* input, std::uint32_t filter, std::size_t flat,
                           std::index_sequence<V...>) {
    alignas(kAlignment) std::int32_t sums[Vectors * kShortLanes];
    const std::int16_t* const weights =
        static_cast<const std::int16_t*>(conv.weights) + std::size_t{filter} * conv.taps;
    Ints low[Vectors] = {((void)V, Ints{})...};
    Ints high[Vectors] = {((void)V, Ints{})...};
    for (std::uint32_t tap = 0; tap < conv.taps; tap += 2) {
        const std::uint8_t* const a = input + conv.offsets[tap];
        const std::uint8_t* const b = input + conv.offsets[tap + 1];
        const Shorts w = broadcast_pair(weights + tap);
        const Interleaved x[Vectors] = {
            interleave(load_shorts(a + V * kShortLanes), load_shorts(b + V * kShortLanes))...};
        ((low[V] = multiply_add_pairs(x[V].low, w, low[V])), ...);
        ((high[V] = multiply_add_pairs(x[V].high, w, high[V])), ...);
    }
    (store_interleaved(sums + V * kShortLanes, low[V], high[V]), ...);
    finish<Vectors * kShortLanes>(sums, conv.excess[filter], conv.epilogue, filter, flat, conv.output);
}

template <class T, std::size_t Vectors>
void depthwise_tiles(const DepthwiseConv& conv, std::uint32_t filter, std::size_t flat) {
    constexpr std::size_t kLanes = std::is_same_v<T, float> ? kFloatLanes : kShortLanes;
    const std::uint32_t channel = filter / conv.filters_per_channel;
    const T* const input = static_cast<const T*>(conv.input) + channel * conv.channel_stride;
    const std::size_t span = (conv.output.span() + kLanes - 1) / kLanes * kLanes;
    for (; flat + Vectors * kLanes <= span; flat += Vectors * kLanes) {
        depthwise_tile<Vectors>(conv, input + flat, filter, flat, std::make_index_sequence<Vectors>{});
    }
    if constexpr (Vectors > 1) {
        if (flat < span) depthwise_tiles<T, Vectors / 2>(conv, filter, flat);
    }
}

inline void depthwise_conv(const DepthwiseConv& conv, std::uint32_t first, std::uint32_t last) {
    for (std::uint32_t filter = first; filter < last; ++filter) {
        if (conv.element == Element::kFloat32) {
            depthwise_tiles<float, 4>(conv, filter, 0);
        } else {
            depthwise_tiles<std::uint8_t, 2>(conv, filter, 0);
        }
    }
    clear_gaps(conv.output, first, last);
}

}  // namespace
}  // namespace sterna::STERNA_ISA
