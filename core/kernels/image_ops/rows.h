// What the operations on rows of images share: copies in and out of planes, and the zeros between pixels.
#pragma once

#include "core/kernels/epilogue.h"

namespace sterna::STERNA_ISA {
namespace {

// Mostly a few bytes: not worth a call.
inline void fill_bytes(unsigned char* to, std::uint8_t value, std::size_t count) {
    constexpr std::size_t kBytes = 16, kMany = 1024;
    if (count >= kMany) {
        __builtin_memset(to, value, count);
        return;
    }
    const Vector<std::uint8_t, kBytes> values = Vector<std::uint8_t, kBytes>{} + value;
    std::size_t i = 0;
    for (; i + kBytes <= count; i += kBytes) store(to + i, values);
    if (count >= kBytes) {
        store(to + count - kBytes, values);
    } else {
        for (; i < count; ++i) to[i] = value;
    }
}

// Zeros from element `begin` of a plane to its end.
inline void clear_plane(const Planes& planes, std::uint32_t channel, std::size_t begin) {
    const std::size_t bytes = size_of(planes.element);
    unsigned char* const plane = static_cast<unsigned char*>(planes.origin) + channel * planes.plane_stride * bytes;
    // The zero of float32 is 0.
    fill_bytes(plane + begin * bytes, planes.levels.zero, (planes.plane_stride - begin) * bytes);
}

template <class T>
inline void clear_gaps_as(const Planes& planes, std::uint32_t first, std::uint32_t last, T zero) {
    const std::size_t gap = planes.pitch - planes.width;
    const std::size_t image_end = (planes.height - 1) * planes.pitch + planes.width;
    for (std::uint32_t channel = first; channel < last; ++channel) {
        T* const plane = static_cast<T*>(planes.origin) + channel * planes.plane_stride;
        for (std::size_t image = 0; image < planes.images; ++image) {
            T* row_end = plane + image * planes.image_stride + planes.width;
            for (std::uint32_t row = 1; row < planes.height && gap != 0; ++row, row_end += planes.pitch) {
                // Nearly always one element: not worth a call.
                row_end[0] = zero;
                for (std::size_t i = 1; i < gap; ++i) row_end[i] = zero;
            }
            if (image + 1 == planes.images) continue;
            T* const behind = plane + image * planes.image_stride;
            for (std::size_t i = image_end; i < planes.image_stride; ++i) behind[i] = zero;
        }
        clear_plane(planes, channel, planes.span());
    }
}

// Zeros between the pixels of planes, and behind them: kernels that treat a plane as one vector write anything there.
inline void clear_gaps(const Planes& planes, std::uint32_t first, std::uint32_t last) {
    if (planes.element == Element::kFloat32) {
        clear_gaps_as<float>(planes, first, last, 0.0f);
    } else {
        clear_gaps_as<std::uint8_t>(planes, first, last, planes.levels.zero);
    }
}

// The zero of the elements of planes.
template <class T>
inline T zero_of(const Planes& planes) {
    return static_cast<T>(planes.element == Element::kUint8 ? planes.levels.zero : 0);
}

// Stores the first `count` lanes, `count` > 0, in a row; behind them zeros, which may reach into rows that are stored
// later, but not beyond `end`.
template <class T, class V>
inline void store_row_end(T* to, const V& x, std::size_t count, T zero, const T* end) {
    constexpr std::size_t kLanes = sizeof(V) / sizeof(T);
    if (count >= kLanes) {
        store(to, x);
    } else if (static_cast<std::size_t>(end - to) >= kLanes) {
        store(to, first_lanes(x, count, zero, std::make_index_sequence<kLanes>{}));
    } else {
        T room[kLanes];
        store(room, x);
        for (std::size_t i = 0; i < count; ++i) to[i] = room[i];
    }
}

inline std::size_t row_at(const Planes& planes, std::uint32_t channel, std::uint32_t image, std::uint32_t row) {
    return channel * planes.plane_stride + image * planes.image_stride + row * planes.pitch;
}

inline void read_row(const Planes& planes, std::uint32_t channel, std::uint32_t image, std::uint32_t row, float* to) {
    const float* const from = to_floats(planes, row_at(planes, channel, image, row), planes.width, to);
    if (from != to) __builtin_memcpy(to, from, planes.width * sizeof(float));
}

inline void write_row(const Planes& planes, std::uint32_t channel, std::uint32_t image, std::uint32_t row,
                      const float* from) {
    from_floats(planes, row_at(planes, channel, image, row), from, planes.width);
}

inline bool load_images(const float* images, std::size_t channels, const Planes& output, std::uint32_t first,
                        std::uint32_t last) {
    std::uint32_t not_finite = 0;
    for (std::uint32_t channel = first; channel < last; ++channel) {
        clear_plane(output, channel, 0);
        for (std::uint32_t image = 0; image < output.images; ++image) {
            const float* from = images + (image * channels + channel) * output.height * output.width;
            for (std::uint32_t row = 0; row < output.height; ++row, from += output.width) {
                for (std::uint32_t x = 0; x < output.width; ++x) {
                    const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, from[x]);
                    not_finite |= static_cast<std::uint32_t>((bits & 0x7f800000u) == 0x7f800000u);
                }
                write_row(output, channel, image, row, from);
            }
        }
    }
    return not_finite == 0;
}

inline void store_images(const Planes& input, float* images, std::size_t channels, std::uint32_t first,
                         std::uint32_t last) {
    for (std::uint32_t channel = first; channel < last; ++channel) {
        for (std::uint32_t image = 0; image < input.images; ++image) {
            float* to = images + (image * channels + channel) * input.height * input.width;
            for (std::uint32_t row = 0; row < input.height; ++row, to += input.width) {
                read_row(input, channel, image, row, to);
            }
        }
    }
}

// Elements of planes `stride` apart, in turns.
template <class T>
inline void merge_row(const T* from, std::size_t stride, std::uint32_t planes, T* to, std::size_t width) {
    if (planes == 1) {
        __builtin_memcpy(to, from, width * sizeof(T));
        return;
    }
    std::size_t x = 0;
    if (planes == 2) {
        // The usual case, which compilers vectorize.
        const T* const other = from + stride;
        for (; x + 2 <= width; x += 2) {
            to[x] = from[x / 2];
            to[x + 1] = other[x / 2];
        }
    }
    for (; x < width; ++x) to[x] = from[x % planes * stride + x / planes];
}

template <class T>
void merge_planes(const Planes& input, std::uint32_t phase_rows, std::uint32_t phase_columns, const Planes& output,
                  std::uint32_t first, std::uint32_t last) {
    for (std::uint32_t channel = first; channel < last; ++channel) {
        for (std::uint32_t image = 0; image < output.images; ++image) {
            for (std::uint32_t y = 0; y < output.height; ++y) {
                const std::uint32_t plane = (channel * phase_rows + y % phase_rows) * phase_columns;
                const T* const from = static_cast<const T*>(input.origin) + row_at(input, plane, image, y / phase_rows);
                T* const to = static_cast<T*>(output.origin) + row_at(output, channel, image, y);
                merge_row(from, input.plane_stride, phase_columns, to, output.width);
            }
        }
    }
    clear_gaps(output, first, last);
}

inline void merge(const Planes& input, std::uint32_t phase_rows, std::uint32_t phase_columns, const Planes& output,
                  std::uint32_t first, std::uint32_t last) {
    if (input.element == Element::kFloat32) {
        merge_planes<float>(input, phase_rows, phase_columns, output, first, last);
    } else {
        merge_planes<std::uint8_t>(input, phase_rows, phase_columns, output, first, last);
    }
}

// Whether elements mean the same in both: levels that become real numbers and then levels again are what they were.
inline bool is_same_kind(const Planes& a, const Planes& b) {
    return a.element == b.element &&
           (a.element == Element::kFloat32 || (a.levels.step == b.levels.step && a.levels.zero == b.levels.zero));
}

template <class T>
void flatten_elements(const Planes& input, const Planes& output, std::uint32_t first, std::uint32_t last) {
    // In registers: stores of bytes may change anything that is in memory.
    const std::size_t width = input.width, images = input.images, plane_stride = output.plane_stride;
    const std::size_t input_stride = input.image_stride, output_stride = output.image_stride;
    for (std::uint32_t channel = first; channel < last; ++channel) {
        for (std::uint32_t row = 0; row < input.height; ++row) {
            const T* const from = static_cast<const T*>(input.origin) + row_at(input, channel, 0, row);
            T* to = static_cast<T*>(output.origin) + (std::size_t{channel} * input.height + row) * width * plane_stride;
            for (std::size_t x = 0; x < width; ++x, to += plane_stride) {
                for (std::size_t image = 0; image < images; ++image) {
                    to[image * output_stride] = from[image * input_stride + x];
                }
            }
        }
    }
}

// (N, C, H, W) to (N, C H W), by channels of the input.
inline void flatten(const Planes& input, const Planes& output, float* scratch, std::uint32_t first,
                    std::uint32_t last) {
    if (is_same_kind(input, output)) {
        if (input.element == Element::kFloat32) {
            flatten_elements<float>(input, output, first, last);
        } else {
            flatten_elements<std::uint8_t>(input, output, first, last);
        }
        return;
    }
    for (std::uint32_t channel = first; channel < last; ++channel) {
        for (std::uint32_t image = 0; image < input.images; ++image) {
            for (std::uint32_t row = 0; row < input.height; ++row) {
                read_row(input, channel, image, row, scratch);
                const std::size_t feature = (std::size_t{channel} * input.height + row) * input.width;
                for (std::uint32_t x = 0; x < input.width; ++x) {
                    from_floats(output, (feature + x) * output.plane_stride + image * output.image_stride, scratch + x,
                                1);
                }
            }
        }
    }
}

}  // namespace
}  // namespace sterna::STERNA_ISA
