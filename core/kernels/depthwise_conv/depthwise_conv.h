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

#if defined(__AVX512VNNI__)
// A tap stands for up to three inputs in a row, in the lowest bytes of lanes of 32 bits.
inline constexpr std::uint32_t kDepthwiseTaps = 3;
inline constexpr bool kDepthwiseReadsStrides = true;
inline constexpr Layout kDepthwiseLayout = Layout::kTransposed;

// The weights of a filter; those of the usual three rows stay in registers.
template <std::uint32_t kTaps>
class DepthwiseWeights {
  public:
    STERNA_INLINE DepthwiseWeights(const DepthwiseConv& conv, std::uint32_t filter)
        : offsets_(conv.offsets),
          quads_(static_cast<const std::int8_t*>(conv.weights) + std::size_t{filter} * 4 * conv.taps),
          taps_(conv.taps),
          none_(Ints{} - conv.excess[filter]) {
        for (std::uint32_t tap = 0; tap < kTaps; ++tap) kept_[tap] = broadcast_quad(quads_ + 4 * tap);
    }

    // Calls `add` with the offset and the weights of each tap.
    template <class Add>
    STERNA_INLINE Quarters sum(const Add& add) const {
        Quarters total = {{none_, none_, none_, none_}};
        if constexpr (kTaps != 0) {
            for (std::uint32_t tap = 0; tap < kTaps; ++tap) add(offsets_[tap], kept_[tap], total);
        } else {
            for (std::uint32_t tap = 0; tap < taps_; ++tap) {
                add(offsets_[tap], broadcast_quad(quads_ + 4 * tap), total);
            }
        }
        return total;
    }

  private:
    const std::int32_t* offsets_;
    const std::int8_t* quads_;
    std::uint32_t taps_;
    Ints none_;
    Ints kept_[kTaps + 1];
};

inline Ints load_lanes(const std::uint8_t* from) {
    return (Ints)load<std::uint8_t, kVectorBytes>(from);
}

// A lane of 32 bits has the inputs of element 4 i and, by weights one byte further, those of 4 i + 1; two bytes further
// a load has those of 4 i + 2 and 4 i + 3.
template <std::uint32_t kTaps>
struct DepthwiseSums {
    const DepthwiseWeights<kTaps>& weights;
    const std::uint8_t* input;

    STERNA_INLINE Quarters operator()(std::size_t v) const {
        const std::uint8_t* const from = input + v * kVectorBytes;
        return weights.sum([from](std::int32_t offset, Ints quad, Quarters& total) __attribute__((always_inline)) {
            const Ints next = quad << 8;
            const Ints first = load_lanes(from + offset), second = load_lanes(from + offset + 2);
            total.part[0] = multiply_add_quads(first, quad, total.part[0]);
            total.part[1] = multiply_add_quads(first, next, total.part[1]);
            total.part[2] = multiply_add_quads(second, quad, total.part[2]);
            total.part[3] = multiply_add_quads(second, next, total.part[3]);
        });
    }
    STERNA_INLINE Quarters raised(std::size_t v) const { return (*this)(v); }
    static constexpr float kRaised = 1.0f;
};

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

// Every second element of a row: a lane has the inputs of one element, and two bytes further those of the next one. A
// vector of levels is of one, two, four or eight rows; of four and eight, rows share a vector of inputs.
template <std::uint32_t kTaps, std::size_t kRows>
struct StridedSums {
    const DepthwiseWeights<kTaps>& weights;
    const std::uint8_t* rows[kRows];

    STERNA_INLINE Quarters operator()(std::size_t x) const {
        return weights.sum([this, x](std::int32_t offset, Ints quad, Quarters& total) __attribute__((always_inline)) {
            const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(2 * x) + offset;
            for (int p = 0; p < 4; ++p) {
                total.part[p] = multiply_add_quads(load_part(at + p % 2 * 2, p / 2), quad, total.part[p]);
            }
        });
    }
    STERNA_INLINE Quarters raised(std::size_t x) const { return (*this)(x); }
    static constexpr float kRaised = 1.0f;

  private:
    STERNA_INLINE Ints load_part(std::ptrdiff_t at, int half) const {
        if constexpr (kRows == 1) return load_lanes(rows[0] + at + (half == 0 ? 0 : kVectorBytes));
        if constexpr (kRows == 2) return load_lanes(rows[half] + at);
        if constexpr (kRows == 4) return load_halves(rows[2 * half] + at, rows[2 * half + 1] + at);
        if constexpr (kRows == 8) {
            return load_fourths(rows[4 * half] + at, rows[4 * half + 1] + at, rows[4 * half + 2] + at,
                                rows[4 * half + 3] + at);
        }
    }
};

template <std::uint32_t kTaps, std::size_t kRows>
inline void strided_rows(const DepthwiseConv& conv, const std::uint8_t* input, std::uint32_t filter) {
    constexpr std::size_t kColumns = kVectorBytes / kRows;
    const DepthwiseWeights<kTaps> weights(conv, filter);
    const Planes& output = conv.output;
    std::uint8_t* const plane = static_cast<std::uint8_t*>(output.origin) + filter * output.plane_stride;
    const std::size_t images = output.images, height = output.height, width = output.width, pitch = output.pitch;
    const std::size_t row_stride = conv.row_stride, image_stride = conv.image_stride;
    const std::size_t output_stride = output.image_stride;
    with_level_maker<Layout::kAlternating>(
        conv.epilogue, filter, output, [&](const auto& make) __attribute__((always_inline)) {
            if constexpr (!make.kAddsResidual) {
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

template <std::uint32_t kTaps>
inline void depthwise_strided(const DepthwiseConv& conv, const std::uint8_t* input, std::uint32_t filter) {
    const std::size_t width = conv.output.width;
    if (width > 32) return strided_rows<kTaps, 1>(conv, input, filter);
    if (width > 16) return strided_rows<kTaps, 2>(conv, input, filter);
    if (width > 8) return strided_rows<kTaps, 4>(conv, input, filter);
    strided_rows<kTaps, 8>(conv, input, filter);
}

inline void depthwise_levels(const DepthwiseConv& conv, const std::uint8_t* input, std::uint32_t filter) {
    constexpr std::uint32_t kUsual = 3;
    if (conv.row_stride != 0) {
        conv.taps == kUsual ? depthwise_strided<kUsual>(conv, input, filter)
                            : depthwise_strided<0>(conv, input, filter);
    } else {
        conv.taps == kUsual ? depthwise_bytes<kUsual>(conv, input, filter) : depthwise_bytes<0>(conv, input, filter);
    }
}
#else
inline constexpr std::uint32_t kDepthwiseTaps = 1;
inline constexpr bool kDepthwiseReadsStrides = false;
inline constexpr Layout kDepthwiseLayout = Layout::kPlain;

// One vector of bytes. Taps are taken in pairs.
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

inline void depthwise_levels(const DepthwiseConv& conv, const std::uint8_t* input, std::uint32_t filter) {
    const std::size_t span = conv.output.span();
    for (std::size_t flat = 0; flat < span; flat += kVectorBytes) {
        const Quarters sums = depthwise_sums(conv, input + flat, filter);
        finish_tile<kDepthwiseLayout, 1>(sums.part, conv.excess[filter], conv.epilogue, filter, flat, conv.output);
    }
}
#endif

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
