// Values split into the phases of a stride, so that the taps of a strided convolution are offsets.
#pragma once

#include "core/kernels/image_ops/rows.h"
#include "core/kernels/kernel_set.h"

namespace sterna::STERNA_ISA {
namespace {

// A plane of the output.
template <class T>
struct Phase {
    T* origin = nullptr;
    const T* end = nullptr;
    std::size_t columns = 0;  // that are filled in each row
};

// Clears the plane too.
template <class T>
inline Phase<T> start_phase(const Planes& input, const SplitShape& shape, const Planes& output, std::uint32_t channel,
                            std::uint32_t phase_y, std::uint32_t phase_x) {
    const std::uint64_t phases = std::uint64_t{shape.stride_height} * shape.stride_width;
    const std::uint64_t number = std::uint64_t{phase_y} * shape.stride_width + phase_x;
    const auto plane = static_cast<std::uint32_t>(channel * phases + number);
    // Where there are more phases than bits all are read. Of those that nobody reads only what lies behind the pixels
    // is cleared: it is before the first pixels of the next plane.
    const bool is_read = phases > 64 || (shape.phases >> number & 1) != 0;
    clear_plane(output, plane, is_read ? 0 : output.span());
    Phase<T> phase;
    phase.origin = static_cast<T*>(output.origin) + plane * output.plane_stride;
    phase.end = phase.origin + output.plane_stride;
    if (!is_read || phase_x >= input.width) return phase;
    // Columns whose source lies in the input; those before the first one never do.
    const std::size_t columns = (input.width - phase_x + shape.stride_width - 1) / shape.stride_width;
    const std::size_t wanted = std::size_t{output.width} + shape.reach_right;
    phase.columns = columns < wanted ? columns : wanted;
    return phase;
}

// Calls `work` with a row of the input and the place of its phases' row in their planes.
template <class T, class Work>
inline void for_rows(const Planes& input, const SplitShape& shape, const Planes& output, std::uint32_t channel,
                     std::uint32_t phase_y, const Work& work) {
    for (std::uint32_t image = 0; image < output.images; ++image) {
        for (std::uint32_t y = 0; y < output.height + shape.reach_bottom; ++y) {
            const std::uint64_t source = std::uint64_t{shape.stride_height} * y + phase_y;
            if (source >= input.height) break;
            const std::size_t from = row_at(input, channel, image, static_cast<std::uint32_t>(source));
            work(static_cast<const T*>(input.origin) + from, image * output.image_stride + y * output.pitch);
        }
    }
}

template <class T>
inline void split_in_two(const T* from, const Phase<T>& even, const Phase<T>& odd, std::size_t at, T zero) {
    constexpr std::size_t kLanes = kHalfBytes<T> / sizeof(T);
    const std::size_t columns = even.columns > odd.columns ? even.columns : odd.columns;
    for (std::size_t x = 0; x < columns; x += kLanes) {
        const Halves<T> both = halves(load_twice(from + 2 * x));
        if (x < even.columns) store_row_end(even.origin + at + x, both.even, even.columns - x, zero, even.end);
        if (x < odd.columns) store_row_end(odd.origin + at + x, both.odd, odd.columns - x, zero, odd.end);
    }
}

template <class T>
void split_channel(const Planes& input, const SplitShape& shape, const Planes& output, std::uint32_t channel) {
    const T zero = zero_of<T>(output);
    const std::size_t stride = shape.stride_width;
    for (std::uint32_t phase_y = 0; phase_y < shape.stride_height; ++phase_y) {
        const auto start = [&](std::uint32_t phase_x) {
            return start_phase<T>(input, shape, output, channel, phase_y, phase_x);
        };
        if (stride == 2) {
            const Phase<T> even = start(0), odd = start(1);
            if (even.columns + odd.columns == 0) continue;
            for_rows<T>(input, shape, output, channel, phase_y,
                        [&](const T* from, std::size_t at) { split_in_two(from, even, odd, at, zero); });
            continue;
        }
        for (std::uint32_t phase_x = 0; phase_x < stride; ++phase_x) {
            const Phase<T> phase = start(phase_x);
            for_rows<T>(input, shape, output, channel, phase_y, [&](const T* from, std::size_t at) {
                for (std::size_t x = 0; x < phase.columns; ++x) phase.origin[at + x] = from[phase_x + stride * x];
            });
        }
    }
}

// By channels of the input.
inline void split(const Planes& input, const SplitShape& shape, const Planes& output, std::uint32_t first,
                  std::uint32_t last) {
    for (std::uint32_t channel = first; channel < last; ++channel) {
        if (input.element == Element::kFloat32) {
            split_channel<float>(input, shape, output, channel);
        } else {
            split_channel<std::uint8_t>(input, shape, output, channel);
        }
    }
}

}  // namespace
}  // namespace sterna::STERNA_ISA
