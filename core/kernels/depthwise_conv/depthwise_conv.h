// Convolutions of one channel a filter.
//
// Also integer inference computes in float32: levels and weights are whole numbers of 8 bits, so that every sum of fewer than
// 2^24 / (255 * 127) = 518 taps is exact.
#pragma once

#include "core/kernels/image_ops/rows.h"

namespace sterna::STERNA_ISA {
namespace {

template <class T, std::size_t Vectors, std::size_t... V>
inline void depthwise_tile(const DepthwiseConv& conv, std::uint32_t filter, std::size_t flat,
                           std::index_sequence<V...>) {
    alignas(kAlignment) float sums[Vectors * kFloatLanes];
    const std::uint32_t channel = filter / conv.filters_per_channel;
    const T* const input = static_cast<const T*>(conv.input) + channel * conv.channel_stride + flat;
    const float* const weights = conv.weights + std::size_t{filter} * conv.taps;
    Floats total[Vectors] = {((void)V, Floats{})...};
    for (std::uint32_t tap = 0; tap < conv.taps; ++tap) {
        const T* const x = input + conv.offsets[tap];
        const Floats w = broadcast(weights[tap]);
        ((total[V] = total[V] + load_floats(x + V * kFloatLanes) * w), ...);
    }
    (store(sums + V * kFloatLanes, total[V]), ...);
    finish<Vectors * kFloatLanes>(sums, conv.epilogue, filter, flat, conv.output);
}

template <class T, std::size_t Vectors>
void depthwise_tiles(const DepthwiseConv& conv, std::uint32_t filter, std::size_t flat) {
    constexpr std::size_t kCount = Vectors * kFloatLanes;
    const std::size_t span = (conv.output.span() + kFloatLanes - 1) / kFloatLanes * kFloatLanes;
    for (; flat + kCount <= span; flat += kCount) {
        depthwise_tile<T, Vectors>(conv, filter, flat, std::make_index_sequence<Vectors>{});
    }
    if constexpr (Vectors > 1) {
        if (flat < span) depthwise_tiles<T, Vectors / 2>(conv, filter, flat);
    }
}

inline void depthwise_conv(const DepthwiseConv& conv, std::uint32_t first, std::uint32_t last) {
    clear_tails(conv.output, first, last);
    for (std::uint32_t filter = first; filter < last; ++filter) {
        if (conv.element == Element::kFloat32) {
            depthwise_tiles<float, 4>(conv, filter, 0);
        } else {
            depthwise_tiles<std::int16_t, 4>(conv, filter, 0);
        }
    }
}

}  // namespace
}  // namespace sterna::STERNA_ISA
