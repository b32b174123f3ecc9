// Operations on single elements, and on the channels of a pixel.
#pragma once

#include "core/kernels/image_ops/rows.h"

namespace sterna::STERNA_ISA {
namespace {

inline constexpr std::size_t kRun = 128;  // elements that are treated together

inline void map(const Planes& input, const Epilogue& epilogue, const Planes& output, std::uint32_t first,
                std::uint32_t last) {
    alignas(kAlignment) float y[kRun];
    alignas(kAlignment) float room[kRun];
    const std::size_t span = output.span();
    for (std::uint32_t channel = first; channel < last; ++channel) {
        const float scale = epilogue.scale != nullptr ? epilogue.scale[channel] : 1.0f;
        const float shift = epilogue.shift != nullptr ? epilogue.shift[channel] : 0.0f;
        for (std::size_t flat = 0; flat < span; flat += kRun) {
            const std::size_t count = span - flat < kRun ? span - flat : kRun;
            const float* const x = to_floats(input, channel * input.plane_stride + flat, count, room);
            for (std::size_t i = 0; i < count; ++i) y[i] = x[i] * scale + shift;
            if (epilogue.residual != nullptr) {
                const Planes& residual = *epilogue.residual;
                const float* const r = to_floats(residual, channel * residual.plane_stride + flat, count, room);
                for (std::size_t i = 0; i < count; ++i) y[i] += r[i];
            }
            activate(y, count, epilogue.activation);
            from_floats(output, channel * output.plane_stride + flat, y, count);
        }
    }
    clear_gaps(output, first, last);
}

inline void combine(bool is_product, const Planes& a, const Planes& b, const Epilogue& epilogue, const Planes& output,
                    std::uint32_t first, std::uint32_t last) {
    alignas(kAlignment) float y[kRun];
    alignas(kAlignment) float room_a[kRun];
    alignas(kAlignment) float room_b[kRun];
    const bool is_same = a.is_same_geometry(b);
    const std::size_t image_span = is_same ? a.span() : (a.height - 1) * a.pitch + a.width;
    for (std::uint32_t channel = first; channel < last; ++channel) {
        for (std::uint32_t image = 0; image < (is_same ? 1 : a.images); ++image) {
            const std::size_t begin = image * a.image_stride;
            float single_room = 0.0f;
            const float single = is_same ? 0.0f : *to_floats(b, row_at(b, channel, image, 0), 1, &single_room);
            for (std::size_t at = 0; at < image_span; at += kRun) {
                const std::size_t flat = begin + at;
                const std::size_t count = image_span - at < kRun ? image_span - at : kRun;
                const float* const x = to_floats(a, channel * a.plane_stride + flat, count, room_a);
                if (is_same) {
                    const float* const z = to_floats(b, channel * b.plane_stride + flat, count, room_b);
                    for (std::size_t i = 0; i < count; ++i) y[i] = is_product ? x[i] * z[i] : x[i] + z[i];
                } else {
                    for (std::size_t i = 0; i < count; ++i) y[i] = is_product ? x[i] * single : x[i] + single;
                }
                activate(y, count, epilogue.activation);
                from_floats(output, channel * output.plane_stride + flat, y, count);
            }
        }
    }
    clear_gaps(output, first, last);
}

// The exponential of one number.
inline float exponential_of(float x) {
    return exponential(Floats{} + x)[0];
}

inline void softmax(const Planes& input, const Planes& output) {
    for (std::uint32_t channel = 0; channel < output.channels; ++channel) clear_plane(output, channel, 0);
    for (std::uint32_t image = 0; image < input.images; ++image) {
        for (std::uint32_t row = 0; row < input.height; ++row) {
            for (std::uint32_t x = 0; x < input.width; ++x) {
                const std::size_t from = row_at(input, 0, image, row) + x;
                const std::size_t to = row_at(output, 0, image, row) + x;
                float room = 0.0f, largest = *to_floats(input, from, 1, &room), total = 0.0f;
                for (std::uint32_t channel = 1; channel < input.channels; ++channel) {
                    const float y = *to_floats(input, from + channel * input.plane_stride, 1, &room);
                    largest = y > largest ? y : largest;
                }
                for (std::uint32_t channel = 0; channel < input.channels; ++channel) {
                    total += exponential_of(*to_floats(input, from + channel * input.plane_stride, 1, &room) - largest);
                }
                for (std::uint32_t channel = 0; channel < input.channels; ++channel) {
                    const float y = *to_floats(input, from + channel * input.plane_stride, 1, &room);
                    const float share = exponential_of(y - largest) / total;
                    from_floats(output, to + channel * output.plane_stride, &share, 1);
                }
            }
        }
    }
}

}  // namespace
}  // namespace sterna::STERNA_ISA
