// Convolutions of one channel a filter.
//
// Also integer inference computes in float32: levels and weights are whole numbers of 8 bits, so that every sum of fewer than
// 2^24 / (255 * 127) = 518 taps is exact.
#pragma once

#include "core/kernels/image_ops/rows.h"

namespace sterna::STERNA_ISA {
namespace {

inline constexpr std::size_t kDepthwiseCount = 2 * kAlignment / sizeof(float);

template <class T, std::size_t Count>
inline void depthwise_tile(const DepthwiseConv& conv, std::uint32_t filter, std::size_t flat) {
    alignas(kAlignment) float sums[Count] = {};
    const std::uint32_t channel = filter / conv.filters_per_channel;
    const T* const input = static_cast<const T*>(conv.input) + channel * conv.channel_stride + flat;
    const float* const weights = conv.weights + std::size_t{filter} * conv.taps;
    for (std::uint32_t tap = 0; tap < conv.taps; ++tap) {
        const T* const x = input + conv.offsets[tap];
        const float w = weights[tap];
        for (std::size_t i = 0; i < Count; ++i) sums[i] += static_cast<float>(x[i]) * w;
    }
    finish<Count>(sums, conv.epilogue, filter, flat, conv.output);
}

template <class T>
void depthwise_filters(const DepthwiseConv& conv, std::uint32_t first, std::uint32_t last) {
    constexpr std::size_t kLeast = kAlignment / sizeof(T) < kDepthwiseCount ? kAlignment / sizeof(T) : kDepthwiseCount;
    const std::size_t span = (conv.output.span() + kLeast - 1) / kLeast * kLeast;
    for (std::uint32_t filter = first; filter < last; ++filter) {
        std::size_t flat = 0;
        for (; flat + kDepthwiseCount <= span; flat += kDepthwiseCount) {
            depthwise_tile<T, kDepthwiseCount>(conv, filter, flat);
        }
        for (; flat < span; flat += kLeast) depthwise_tile<T, kLeast>(conv, filter, flat);
    }
}

inline void depthwise_conv(const DepthwiseConv& conv, std::uint32_t first, std::uint32_t last) {
    clear_tails(conv.output, first, last);
    if (conv.element == Element::kFloat32) {
        depthwise_filters<float>(conv, first, last);
    } else {
        depthwise_filters<std::int16_t>(conv, first, last);
    }
}

}  // namespace
}  // namespace sterna::STERNA_ISA
