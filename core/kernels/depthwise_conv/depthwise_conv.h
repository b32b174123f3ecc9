// Convolutions of one channel a filter.
#pragma once

#if defined(__AVX512VNNI__)
#include "core/kernels/depthwise_conv/quads.h"
#else
#include "core/kernels/depthwise_conv/pairs.h"
#endif
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

template <std::uint32_t kTaps>
inline void depthwise_bytes(const DepthwiseConv& conv, const std::uint8_t* input, std::uint32_t filter) {
    const DepthwiseWeights<kTaps> weights(conv, filter);
    const std::size_t vectors = (conv.output.span() + kVectorBytes - 1) / kVectorBytes;
    const DepthwiseSums<kTaps> sums{weights, input};
    if (conv.output.element == Element::kUint8) {
        finish_levels<kDepthwiseLayout>(sums, vectors, 0, conv.epilogue, filter, 0, conv.output);
        return;
    }
    for (std::size_t v = 0; v < vectors; ++v) {
        const Quarters one = sums(v);
        finish_tile<kDepthwiseLayout, 1>(one.part, 0, conv.epilogue, filter, v * kVectorBytes, conv.output);
    }
}

template <std::uint32_t kTaps, std::size_t kRows>
inline void strided_rows(const DepthwiseConv& conv, const std::uint8_t* input, std::uint32_t filter) {
    constexpr std::size_t kColumns = kVectorBytes / kRows;
    const DepthwiseWeights<kTaps> weights(conv, filter);
    const Planes& output = conv.output;
    std::uint8_t* const plane = static_cast<std::uint8_t*>(output.origin) + filter * output.plane_stride;
    const std::size_t images = output.images, height = output.height, width = output.width, pitch = output.pitch;
    const std::size_t row_stride = conv.row_stride, image_stride = conv.image_stride;
    const std::size_t output_stride = output.image_stride;
    with_level_maker<kStridedLayout>(
        conv.epilogue, filter, output, [&](const auto& make) __attribute__((always_inline)) {
            if constexpr (!std::decay_t<decltype(make)>::kAddsResidual) {
                for (std::size_t image = 0; image < images; ++image) {
                    for (std::size_t y = 0; y < height; y += kRows) {
                        StridedSums<kTaps, kRows> sums{weights, {}};
                        for (std::size_t r = 0; r < kRows; ++r) {
                            const std::size_t row = y + r < height ? y + r : height - 1;
                            sums.rows[r] = input + image * image_stride + row * row_stride;
                        }
                        const std::size_t rows = height - y < kRows ? height - y : kRows;
                        std::uint8_t* const to = plane + image * output_stride + y * pitch;
                        // The last vector of long rows has some elements once more.
                        for (std::size_t x = 0; x < width; x += kColumns) {
                            if (width > kColumns && width - x < kColumns) x = width - kColumns;
                            const Bytes levels = make(sums, x, 0, 0);
                            store_rows<kRows>(to + x, levels, rows, pitch, width < kColumns ? width : kColumns);
                        }
                    }
                }
            }
        });
}

// As many rows in a vector as fit.
template <std::uint32_t kTaps, std::size_t kRows = kMostRows>
inline void depthwise_strided(const DepthwiseConv& conv, const std::uint8_t* input, std::uint32_t filter) {
    if constexpr (kRows > 1) {
        if (conv.output.width > kVectorBytes / kRows) {
            return depthwise_strided<kTaps, kRows / 2>(conv, input, filter);
        }
    }
    strided_rows<kTaps, kRows>(conv, input, filter);
}

inline void depthwise_levels(const DepthwiseConv& conv, const std::uint8_t* input, std::uint32_t filter) {
    if (conv.row_stride != 0) {
        conv.taps == kUsualTaps ? depthwise_strided<kUsualTaps>(conv, input, filter)
                                : depthwise_strided<0>(conv, input, filter);
    } else {
        conv.taps == kUsualTaps ? depthwise_bytes<kUsualTaps>(conv, input, filter)
                                : depthwise_bytes<0>(conv, input, filter);
    }
}
inline void depthwise_conv(const DepthwiseConv& conv, std::uint32_t first, std::uint32_t last) {
    for (std::uint32_t filter = first; filter < last; ++filter) {
        const std::size_t begin = filter / conv.filters_per_channel * conv.channel_stride;
        if (conv.element == Element::kFloat32) {
            depthwise_floats<4>(conv, static_cast<const float*>(conv.input) + begin, filter, 0);
        } else {
            depthwise_levels(conv, static_cast<const std::uint8_t*>(conv.input) + begin, filter);
        }
    }
    clear_gaps(conv.output, first, last);
}

}  // namespace
}  // namespace sterna::STERNA_ISA
