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

// One vector of bytes.
#if defined(__AVX512VNNI__)
// A tap stands for four inputs in a row, as a lane of 32 bits has them: four loads, one element apart, bring those of
// all elements, transposed.
inline constexpr std::uint32_t kDepthwiseTaps = 4;

inline Quarters depthwise_sums(const DepthwiseConv& conv, const std::uint8_t* input, std::uint32_t filter) {
    const std::int8_t* quad = static_cast<const std::int8_t*>(conv.weights) + std::size_t{filter} * 4 * conv.taps;
    Quarters total = {};
    for (std::uint32_t tap = 0; tap < conv.taps; ++tap, quad += 4) {
        const std::uint8_t* const x = input + conv.offsets[tap];
        const Ints weights = broadcast_quad(quad);
        for (std::size_t p = 0; p < 4; ++p) {
            total.part[p] = multiply_add_quads((Ints)load<std::uint8_t, kVectorBytes>(x + p), weights, total.part[p]);
        }
    }
    return total;
}
inline constexpr Layout kDepthwiseLayout = Layout::kTransposed;
#else
inline constexpr std::uint32_t kDepthwiseTaps = 1;

// Taps are taken in pairs.
inline Quarters depthwise_sums(const DepthwiseConv& conv, const std::uint8_t* input, std::uint32_t filter) {
    const std::int16_t* const weights =
        static_cast<const std::int16_t*>(conv.weights) + std::size_t{filter} * conv.taps;
    Quarters total = {};
    for (std::uint32_t tap = 0; tap < conv.taps; tap += 2) {
        const WidePairs x = interleave_wide(load<std::uint8_t, kVectorBytes>(input + conv.offsets[tap]),
                                            load<std::uint8_t, kVectorBytes>(input + conv.offsets[tap + 1]));
        const Shorts w = broadcast_pair(weights + tap);
        for (std::size_t p = 0; p < 4; ++p) total.part[p] = multiply_add_pairs(x.part[p], w, total.part[p]);
    }
    return total;
}
inline constexpr Layout kDepthwiseLayout = Layout::kPlain;
#endif

inline void depthwise_bytes(const DepthwiseConv& conv, const std::uint8_t* input, std::uint32_t filter) {
    const std::size_t span = conv.output.span();
    for (std::size_t flat = 0; flat < span; flat += kVectorBytes) {
        const Quarters sums = depthwise_sums(conv, input + flat, filter);
        finish_tile<kDepthwiseLayout, 1>(sums.part, conv.excess[filter], conv.epilogue, filter, flat, conv.output);
    }
}

template <std::size_t Vectors>
void depthwise_floats(const DepthwiseConv& conv, const float* input, std::uint32_t filter, std::size_t flat) {
    const std::size_t span = (conv.output.span() + kFloatLanes - 1) / kFloatLanes * kFloatLanes;
    for (; flat + Vectors * kFloatLanes <= span; flat += Vectors * kFloatLanes) {
        depthwise_tile<Vectors>(conv, input + flat, filter, flat, std::make_index_sequence<Vectors>{});
    }
    if constexpr (Vectors > 1) {
        if (flat < span) depthwise_floats<Vectors / 2>(conv, input, filter, flat);
    }
}

inline void depthwise_conv(const DepthwiseConv& conv, std::uint32_t first, std::uint32_t last) {
    for (std::uint32_t filter = first; filter < last; ++filter) {
        const std::size_t begin = filter / conv.filters_per_channel * conv.channel_stride;
        if (conv.element == Element::kFloat32) {
            depthwise_floats<4>(conv, static_cast<const float*>(conv.input) + begin, filter, 0);
        } else {
            depthwise_bytes(conv, static_cast<const std::uint8_t*>(conv.input) + begin, filter);
        }
    }
    clear_gaps(conv.output, first, last);
}

}  // namespace
}  // namespace sterna::STERNA_ISA
