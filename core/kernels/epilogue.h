// What follows the sums of a filter: scale, shift, residual, activation, levels; the same on every instruction set.
//
// Products and sums are rounded one by one (no fused multiply-add), and exp is computed from them alone, so that levels
// are equal everywhere.
#pragma once

#include "core/kernels/vector.h"

namespace sterna::STERNA_ISA {
namespace {

// Nearest whole number, halves to even, for |x| < 2^22: beyond 2^23 floats have no fraction.
inline float round_to_even(float x) {
    const float big = 12582912.0f;
    return (x + big) - big;
}

// e^x to 2 ulp, by e^x = 2^k e^r with |r| <= ln(2) / 2 and the series of e^r; x is clamped to [-87, 88].
inline float exponential(float x) {
    x = x > 88.0f ? 88.0f : x;
    x = x < -87.0f ? -87.0f : x;
    const float k = round_to_even(x * 1.44269504f);
    const float r = (x - k * 0.693359375f) + k * 2.12194440e-4f;
    float series = 1.0f / 5040.0f;
    series = series * r + 1.0f / 720.0f;
    series = series * r + 1.0f / 120.0f;
    series = series * r + 1.0f / 24.0f;
    series = series * r + 1.0f / 6.0f;
    series = series * r + 0.5f;
    series = series * r + 1.0f;
    series = series * r + 1.0f;
    const std::int32_t bits = (static_cast<std::int32_t>(k) + 127) << 23;
    return series * __builtin_bit_cast(float, bits);
}

inline void activate(float* y, std::size_t count, Activation activation) {
    switch (activation) {
        case Activation::kNone:
            return;
        case Activation::kRelu:
            for (std::size_t i = 0; i < count; ++i) y[i] = y[i] > 0.0f ? y[i] : 0.0f;
            return;
        case Activation::kRelu6:
            for (std::size_t i = 0; i < count; ++i) {
                const float positive = y[i] > 0.0f ? y[i] : 0.0f;
                y[i] = positive < 6.0f ? positive : 6.0f;
            }
            return;
        case Activation::kHardswish:
        case Activation::kHardsigmoid: {
            const bool is_gate = activation == Activation::kHardswish;
            for (std::size_t i = 0; i < count; ++i) {
                float gate = y[i] + 3.0f;
                gate = gate > 0.0f ? gate : 0.0f;
                gate = (gate < 6.0f ? gate : 6.0f) * (1.0f / 6.0f);
                y[i] = is_gate ? y[i] * gate : gate;
            }
            return;
        }
        case Activation::kSilu:
            for (std::size_t i = 0; i < count; ++i) y[i] = y[i] / (1.0f + exponential(-y[i]));
            return;
        case Activation::kSigmoid:
            for (std::size_t i = 0; i < count; ++i) y[i] = 1.0f / (1.0f + exponential(-y[i]));
            return;
    }
}

inline void to_levels(const float* y, const Levels& levels, std::int16_t* q, std::size_t count) {
    const float inverse = levels.inverse_step, lowest = levels.lowest, highest = levels.highest;
    for (std::size_t i = 0; i < count; ++i) {
        float level = y[i] * inverse;
        level = level > lowest ? level : lowest;
        level = level < highest ? level : highest;
        q[i] = static_cast<std::int16_t>(static_cast<std::int32_t>(round_to_even(level)));
    }
}

// The real numbers of elements, wherever they are kept.
inline const float* to_floats(const Planes& planes, std::size_t at, std::size_t count, float* room) {
    if (planes.element == Element::kFloat32) return static_cast<const float*>(planes.origin) + at;
    const std::int16_t* const q = static_cast<const std::int16_t*>(planes.origin) + at;
    const float step = planes.levels.step;
    for (std::size_t i = 0; i < count; ++i) room[i] = static_cast<float>(q[i]) * step;
    return room;
}

inline void from_floats(const Planes& planes, std::size_t at, const float* y, std::size_t count) {
    if (planes.element == Element::kFloat32) {
        float* const to = static_cast<float*>(planes.origin) + at;
        for (std::size_t i = 0; i < count; ++i) to[i] = y[i];
    } else {
        to_levels(y, planes.levels, static_cast<std::int16_t*>(planes.origin) + at, count);
    }
}

// As from_floats, with zeros where no pixel is.
inline void pixels_from_floats(const Planes& planes, std::size_t at, const std::uint8_t* is_pixel, float* y,
                               std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) y[i] = is_pixel[i] != 0 ? y[i] : 0.0f;
    from_floats(planes, at, y, count);
}

// `Count` sums of filter `channel`, of elements from `flat` on.
template <std::size_t Count, class Sum>
inline void finish(const Sum* sums, const Epilogue& epilogue, std::uint32_t channel, std::size_t flat,
                   const Planes& output) {
    alignas(kAlignment) float y[Count];
    alignas(kAlignment) float room[Count];
    const float scale = epilogue.scale[channel], shift = epilogue.shift[channel];
    for (std::size_t i = 0; i < Count; ++i) y[i] = static_cast<float>(sums[i]) * scale + shift;
    if (epilogue.residual != nullptr) {
        const Planes& residual = *epilogue.residual;
        const float* const r = to_floats(residual, channel * residual.plane_stride + flat, Count, room);
        for (std::size_t i = 0; i < Count; ++i) y[i] += r[i];
    }
    activate(y, Count, epilogue.activation);
    pixels_from_floats(output, channel * output.plane_stride + flat, epilogue.is_pixel + flat, y, Count);
}

}  // namespace
}  // namespace sterna::STERNA_ISA
