// Pooling, resizing and padding: row by row.
#pragma once

#include "core/kernels/image_ops/rows.h"
#include "core/kernels/kernel_set.h"

namespace sterna::STERNA_ISA {
namespace {

inline constexpr float kLowest = -3.402823466e38f;

template <Pool kKind, class T>
inline T merged(T a, T b) {
    if constexpr (kKind == Pool::kMax) {
        return a > b ? a : b;
    } else {
        return a + b;
    }
}

// to[i] = all from[i + k step] for k < `rows`, merged. The last vector overlaps the one before, so that runs of any
// length are computed with vectors; nothing is loaded that has just been stored.
template <Pool kKind, class T>
inline void reduce(const T* from, std::size_t step, std::size_t rows, T* to, std::size_t count) {
    constexpr std::size_t kBytes = sizeof(T) == 1 ? 16 : kVectorBytes;
    constexpr std::size_t kLanes = kBytes / sizeof(T);
    std::size_t i = 0;
    for (; count >= kLanes && i < count; i += kLanes) {
        const std::size_t at = i + kLanes <= count ? i : count - kLanes;
        auto total = load<T, kBytes>(from + at);
        for (std::size_t k = 1; k < rows; ++k) total = merged<kKind>(total, load<T, kBytes>(from + k * step + at));
        store(to + at, total);
    }
    for (; i < count; ++i) {
        T total = from[i];
        for (std::size_t k = 1; k < rows; ++k) total = merged<kKind, T>(total, from[k * step + i]);
        to[i] = total;
    }
}

// Merges elements that lie `Stride` apart.
template <Pool kKind, std::size_t Stride, class T>
inline void merge(T* into, const T* from, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) into[i] = merged<kKind, T>(into[i], from[Stride * i]);
}

template <Pool kKind, class T>
inline void merge(T* into, const T* from, std::size_t count, std::size_t stride) {
    if (stride == 1) {
        merge<kKind, 1>(into, from, count);
    } else if (stride == 2) {
        merge<kKind, 2>(into, from, count);
    } else {
        for (std::size_t i = 0; i < count; ++i) merge<kKind, 1>(into + i, from + i * stride, 1);
    }
}

// Positions of a window along one axis that lie in the input, and (for averages that count the padding) in the padded
// input.
struct Window {
    std::int64_t inside = 0, padded = 0;
};
inline Window window(std::int64_t begin, std::int64_t kernel, std::int64_t size, std::int64_t pad_end) {
    const std::int64_t end = begin + kernel;
    const std::int64_t low = begin < 0 ? 0 : begin;
    const std::int64_t high = end < size ? end : size;
    const std::int64_t padded_end = end < size + pad_end ? end : size + pad_end;
    return {high > low ? high - low : 0, padded_end - begin};
}

// Rows of a plane as the pool computes with them: largest elements are found among elements as they are kept, since a
// plan gives output and input the same levels; averages are of real numbers.
template <Pool kKind>
inline void reduce_rows(const Planes& planes, std::size_t at, std::size_t step, std::size_t rows, float* to,
                        float* room) {
    if (planes.element == Element::kFloat32) {
        reduce<kKind>(static_cast<const float*>(planes.origin) + at, step, rows, to, planes.width);
        return;
    }
    for (std::size_t k = 0; k < rows; ++k) {
        const float* const row = to_floats(planes, at + k * step, planes.width, k == 0 ? to : room);
        if (k != 0) merge<kKind, 1>(to, row, planes.width);
    }
}
template <Pool kKind>
inline void reduce_rows(const Planes& planes, std::size_t at, std::size_t step, std::size_t rows, std::uint8_t* to,
                        std::uint8_t*) {
    reduce<kKind>(static_cast<const std::uint8_t*>(planes.origin) + at, step, rows, to, planes.width);
}

inline void write_pooled(const Planes& planes, std::size_t at, const float* row) {
    from_floats(planes, at, row, planes.width);
}
inline void write_pooled(const Planes& planes, std::size_t at, const std::uint8_t* row) {
    __builtin_memcpy(static_cast<std::uint8_t*>(planes.origin) + at, row, planes.width);
}

inline void divide_by_counts(const PoolShape& shape, const Planes& input, std::int64_t top, float* row,
                             std::uint32_t width) {
    const Window rows = window(top, shape.kernel_height, input.height, shape.pad_bottom);
    for (std::uint32_t x = 0; x < width; ++x) {
        const std::int64_t left = std::int64_t{x} * shape.stride_width - shape.pad_left;
        const Window columns = window(left, shape.kernel_width, input.width, shape.pad_right);
        const std::int64_t count =
            shape.count_include_pad ? rows.padded * columns.padded : rows.inside * columns.inside;
        row[x] /= static_cast<float>(count);
    }
}

// Rows first, for all of an image, then columns: what has just been stored in other pieces is slow to load.
template <Pool kKind, class T>
void pool_rows(const Planes& input, const PoolShape& shape, const Planes& output, T identity, float* scratch,
               std::uint32_t first, std::uint32_t last) {
    const std::size_t reach = (shape.kernel_width - 1) * shape.dilation_width;
    std::size_t padded = (output.width - 1) * shape.stride_width + reach + 1;
    if (padded < shape.pad_left + input.width) padded = shape.pad_left + input.width;
    const std::size_t half = (padded + 1) / 2;
    const bool is_split = shape.stride_width == 2 && shape.dilation_width == 1 && shape.kernel_width > 1;
    T* const columns = reinterpret_cast<T*>(scratch);          // [output.height][padded + 2]: windows' rows merged
    T* const phases = columns + output.height * (padded + 2);  // [output.height][2][half], if it is split
    T* const row = phases + output.height * 2 * half;          // [the wider of input and output]
    T* const result = row + (input.width > output.width ? input.width : output.width);
    for (std::uint32_t channel = first; channel < last; ++channel) {
        clear_plane(output, channel, 0);
        for (std::uint32_t image = 0; image < output.images; ++image) {
            for (std::uint32_t y = 0; y < output.height; ++y) {
                T* const column = columns + y * (padded + 2);
                for (std::size_t i = 0; i < padded + 2; ++i) column[i] = identity;
                const std::int64_t top = std::int64_t{y} * shape.stride_height - shape.pad_top;
                // Rows of the window that lie in the input: from `begin` to `end`.
                const std::int64_t down = shape.dilation_height;
                const std::int64_t begin = top < 0 ? (-top + down - 1) / down : 0;
                std::int64_t end = (std::int64_t{input.height} - top + down - 1) / down;
                if (end > shape.kernel_height) end = shape.kernel_height;
                if (end <= begin) continue;
                const auto source = static_cast<std::uint32_t>(top + begin * down);
                reduce_rows<kKind>(input, row_at(input, channel, image, source),
                                   static_cast<std::size_t>(down) * input.pitch, static_cast<std::size_t>(end - begin),
                                   column + shape.pad_left, row);
            }
            // Every second element, once for all columns of the windows.
            for (std::uint32_t y = 0; y < output.height && is_split; ++y) {
                split_row(columns + y * (padded + 2), phases + 2 * y * half, half, 2);
                split_row(columns + y * (padded + 2) + 1, phases + (2 * y + 1) * half, half, 2);
            }
            for (std::uint32_t y = 0; y < output.height; ++y) {
                const T* const column = columns + y * (padded + 2);
                if (is_split) {
                    // Even columns of the window, then odd ones.
                    const T* const even = phases + 2 * y * half;
                    reduce<kKind>(even, 1, (shape.kernel_width + 1) / 2, result, output.width);
                    reduce<kKind>(even + half, 1, shape.kernel_width / 2, row, output.width);
                    merge<kKind, 1>(result, row, output.width);
                } else if (shape.stride_width == 1) {
                    reduce<kKind>(column, shape.dilation_width, shape.kernel_width, result, output.width);
                } else {
                    for (std::size_t i = 0; i < output.width; ++i) result[i] = identity;
                    for (std::uint32_t k = 0; k < shape.kernel_width; ++k) {
                        merge<kKind>(result, column + std::size_t{k} * shape.dilation_width, output.width,
                                     shape.stride_width);
                    }
                }
                if constexpr (kKind == Pool::kAverage) {
                    const std::int64_t top = std::int64_t{y} * shape.stride_height - shape.pad_top;
                    divide_by_counts(shape, input, top, result, output.width);
                }
                write_pooled(output, row_at(output, channel, image, y), result);
            }
        }
    }
}

inline void pool(Pool kind, const Planes& input, const PoolShape& shape, const Planes& output, float* scratch,
                 std::uint32_t first, std::uint32_t last) {
    if (kind == Pool::kAverage) {
        pool_rows<Pool::kAverage, float>(input, shape, output, 0.0f, scratch, first, last);
    } else if (output.element == Element::kUint8) {
        pool_rows<Pool::kMax, std::uint8_t>(input, shape, output, 0, scratch, first, last);
    } else {
        // Also of levels, where the output is one of the graph's.
        pool_rows<Pool::kMax, float>(input, shape, output, kLowest, scratch, first, last);
    }
}

template <Pool kKind>
void adaptive_pool_rows(const Planes& input, const Planes& output, float* scratch, std::uint32_t first,
                        std::uint32_t last) {
    float* const column = scratch;
    float* const row = column + input.width;
    float* const result = row + input.width;
    for (std::uint32_t channel = first; channel < last; ++channel) {
        clear_plane(output, channel, 0);
        for (std::uint32_t image = 0; image < output.images; ++image) {
            for (std::uint64_t y = 0; y < output.height; ++y) {
                const std::uint64_t top = y * input.height / output.height;
                const std::uint64_t bottom = ((y + 1) * input.height + output.height - 1) / output.height;
                for (std::size_t i = 0; i < input.width; ++i) column[i] = kKind == Pool::kMax ? kLowest : 0.0f;
                for (std::uint64_t source = top; source < bottom; ++source) {
                    const std::size_t at = row_at(input, channel, image, static_cast<std::uint32_t>(source));
                    merge<kKind, 1>(column, to_floats(input, at, input.width, row), input.width);
                }
                for (std::uint64_t x = 0; x < output.width; ++x) {
                    const std::uint64_t left = x * input.width / output.width;
                    const std::uint64_t right = ((x + 1) * input.width + output.width - 1) / output.width;
                    float total = column[left];
                    for (std::uint64_t i = left + 1; i < right; ++i) merge<kKind, 1>(&total, column + i, 1);
                    if (kKind == Pool::kAverage) total /= static_cast<float>((bottom - top) * (right - left));
                    result[x] = total;
                }
                write_row(output, channel, image, static_cast<std::uint32_t>(y), result);
            }
        }
    }
}

// The mean of all pixels: of levels their exact sum, divided once.
inline void global_average(const Planes& input, const Planes& output, std::uint32_t first, std::uint32_t last) {
    const float count = static_cast<float>(input.height) * static_cast<float>(input.width);
    for (std::uint32_t channel = first; channel < last; ++channel) {
        clear_plane(output, channel, 0);
        for (std::uint32_t image = 0; image < input.images; ++image) {
            float total = 0.0f;
            std::int64_t levels = 0;
            for (std::uint32_t y = 0; y < input.height; ++y) {
                const std::size_t at = row_at(input, channel, image, y);
                if (input.element == Element::kFloat32) {
                    const float* const row = static_cast<const float*>(input.origin) + at;
                    for (std::uint32_t x = 0; x < input.width; ++x) total += row[x];
                } else {
                    const std::uint8_t* const row = static_cast<const std::uint8_t*>(input.origin) + at;
                    std::int32_t sum = 0;
                    for (std::uint32_t x = 0; x < input.width; ++x) sum += row[x];
                    levels += sum - std::int64_t{input.levels.zero} * input.width;
                }
            }
            if (input.element == Element::kUint8) total = static_cast<float>(levels) * input.levels.step;
            const float mean = total / count;
            from_floats(output, row_at(output, channel, image, 0), &mean, 1);
        }
    }
}

inline void adaptive_pool(Pool kind, const Planes& input, const Planes& output, float* scratch, std::uint32_t first,
                          std::uint32_t last) {
    if (kind == Pool::kAverage && output.height == 1 && output.width == 1) {
        global_average(input, output, first, last);
    } else if (kind == Pool::kMax) {
        adaptive_pool_rows<Pool::kMax>(input, output, scratch, first, last);
    } else {
        adaptive_pool_rows<Pool::kAverage>(input, output, scratch, first, last);
    }
}

// Where an output coordinate lies in the input: between `low` and `high`, `fraction` of the way.
struct Source {
    std::uint32_t low = 0, high = 0;
    float fraction = 0.0f;
};
inline Source source(Resize kind, std::uint32_t at, std::uint32_t input, std::uint32_t output) {
    if (kind == Resize::kNearest) {
        const auto low = static_cast<std::uint32_t>(std::uint64_t{at} * input / output);
        return {low, low, 0.0f};
    }
    float place = 0.0f;
    if (kind == Resize::kBilinearAlignCorners) {
        if (output > 1)
            place = static_cast<float>(at) * (static_cast<float>(input - 1) / static_cast<float>(output - 1));
    } else {
        place = (static_cast<float>(at) + 0.5f) * (static_cast<float>(input) / static_cast<float>(output)) - 0.5f;
        place = place > 0.0f ? place : 0.0f;
    }
    auto low = static_cast<std::uint32_t>(place);
    if (low > input - 1) low = input - 1;
    const std::uint32_t high = low + 1 < input ? low + 1 : low;
    return {low, high, place - static_cast<float>(low)};
}

// Rows and columns that are repeated or left out.
template <class T>
void repeat_pixels(const Planes& input, const Planes& output, std::uint32_t first, std::uint32_t last) {
    // In registers: stores of bytes may change anything that is in memory.
    const std::uint32_t input_width = input.width, output_width = output.width;
    const bool is_doubled = output_width == 2 * input_width;
    for (std::uint32_t channel = first; channel < last; ++channel) {
        for (std::uint32_t image = 0; image < output.images; ++image) {
            std::uint32_t copied = input.height;  // none yet
            for (std::uint32_t y = 0; y < output.height; ++y) {
                T* const to = static_cast<T*>(output.origin) + row_at(output, channel, image, y);
                const std::uint32_t row = source(Resize::kNearest, y, input.height, output.height).low;
                if (row == copied) {
                    __builtin_memcpy(to, to - output.pitch, output_width * sizeof(T));
                    continue;
                }
                copied = row;
                const T* const from = static_cast<const T*>(input.origin) + row_at(input, channel, image, row);
                if (is_doubled) {
                    for (std::uint32_t x = 0; x < input_width; ++x) to[2 * x] = to[2 * x + 1] = from[x];
                    continue;
                }
                for (std::uint32_t x = 0; x < output_width; ++x) {
                    to[x] = from[source(Resize::kNearest, x, input_width, output_width).low];
                }
            }
        }
    }
    clear_gaps(output, first, last);
}

inline void resize(Resize kind, const Planes& input, const Planes& output, float* scratch, std::uint32_t first,
                   std::uint32_t last) {
    if (kind == Resize::kNearest && is_same_kind(input, output)) {
        if (input.element == Element::kFloat32) {
            repeat_pixels<float>(input, output, first, last);
        } else {
            repeat_pixels<std::uint8_t>(input, output, first, last);
        }
        return;
    }
    float* const upper = scratch;
    float* const lower = upper + input.width;
    float* const result = lower + input.width;
    for (std::uint32_t channel = first; channel < last; ++channel) {
        clear_plane(output, channel, 0);
        for (std::uint32_t image = 0; image < output.images; ++image) {
            for (std::uint32_t y = 0; y < output.height; ++y) {
                const Source rows = source(kind, y, input.height, output.height);
                read_row(input, channel, image, rows.low, upper);
                read_row(input, channel, image, rows.high, lower);
                for (std::size_t i = 0; i < input.width; ++i) {
                    upper[i] = upper[i] * (1.0f - rows.fraction) + lower[i] * rows.fraction;
                }
                for (std::uint32_t x = 0; x < output.width; ++x) {
                    const Source columns = source(kind, x, input.width, output.width);
                    result[x] = upper[columns.low] * (1.0f - columns.fraction) + upper[columns.high] * columns.fraction;
                }
                write_row(output, channel, image, y, result);
            }
        }
    }
}

inline void pad(const Planes& input, std::uint32_t pad_top, std::uint32_t pad_left, std::uint32_t channels_before,
                const Planes& output, float* scratch, std::uint32_t first, std::uint32_t last) {
    for (std::uint32_t channel = first; channel < last; ++channel) {
        clear_plane(output, channel, 0);
        if (channel < channels_before || channel - channels_before >= input.channels) continue;
        for (std::uint32_t image = 0; image < input.images; ++image) {
            for (std::uint32_t y = 0; y < input.height; ++y) {
                read_row(input, channel - channels_before, image, y, scratch);
                from_floats(output, row_at(output, channel, image, y + pad_top) + pad_left, scratch, input.width);
            }
        }
    }
}

}  // namespace
}  // namespace sterna::STERNA_ISA
