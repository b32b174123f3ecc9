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

template <Pool kKind, class T>
inline Twice<T> merged(const Twice<T>& a, const Twice<T>& b) {
    return {merged<kKind>(a.low, b.low), merged<kKind>(a.high, b.high)};
}

// to[i] = the elements of a window, merged: its rows first, `step` apart, then its columns from `Stride * i` on.
// Behind them there are zeros in `to`, but not beyond `end`.
template <Pool kKind, std::size_t Stride, class T>
STERNA_INLINE void merge_windows(const T* from, std::size_t step, std::size_t rows, std::size_t columns, T* to,
                                 std::size_t count, T zero, const T* end) {
    constexpr std::size_t kBytes = kHalfBytes<T>, kLanes = kBytes / sizeof(T);
    const auto merged_rows = [&](const T* at) {
        auto total = load<T, kBytes>(at);
        for (std::size_t k = 1; k < rows; ++k) total = merged<kKind>(total, load<T, kBytes>(at + k * step));
        return total;
    };
    for (std::size_t i = 0; i < count; i += kLanes) {
        const T* const at = from + Stride * i;
        Vector<T, kBytes> total;
        if constexpr (Stride == 1) {
            total = merged_rows(at);
            for (std::size_t k = 1; k < columns; ++k) total = merged<kKind>(total, merged_rows(at + k));
        } else {
            static_assert(Stride == 2);
            const auto merged_halves = [&](std::size_t k) {
                Twice<T> all = load_twice(at + k);
                for (std::size_t r = 1; r < rows; ++r) all = merged<kKind, T>(all, load_twice(at + k + r * step));
                return halves(all);
            };
            const Halves<T> two = merged_halves(0);
            total = columns == 1 ? two.even : merged<kKind>(two.even, two.odd);
            for (std::size_t k = 2; k < columns; k += 2) {
                const Halves<T> next = merged_halves(k);
                total = merged<kKind>(total, next.even);
                if (k + 1 < columns) total = merged<kKind>(total, next.odd);
            }
        }
        store_row_end(to + i, total, count - i, zero, end);
    }
}

template <Pool kKind, class T>
inline void merge(T* into, const T* from, std::size_t count, std::size_t stride = 1) {
    for (std::size_t i = 0; i < count; ++i) into[i] = merged<kKind, T>(into[i], from[stride * i]);
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

// The rows of a window that lie in the input.
struct WindowRows {
    std::uint32_t first = 0;  // of the input
    std::size_t count = 0;
};
inline WindowRows window_rows(const PoolShape& shape, const Planes& input, std::int64_t top) {
    const std::int64_t down = shape.dilation_height;
    const std::int64_t begin = top < 0 ? (-top + down - 1) / down : 0;
    std::int64_t end = (std::int64_t{input.height} - top + down - 1) / down;
    if (end > shape.kernel_height) end = shape.kernel_height;
    if (end <= begin) return {};
    return {static_cast<std::uint32_t>(top + begin * down), static_cast<std::size_t>(end - begin)};
}

// Windows of elements as they are kept, with a stride of 1 or 2 along a row and no dilation there. The elements of an
// output have the levels of its input: the largest of some bytes is one of them.
template <Pool kKind, std::size_t Stride, class T>
void pool_elements(const Planes& input, const PoolShape& shape, const Planes& output, T identity, std::uint32_t first,
                   std::uint32_t last) {
    const std::size_t kernel = shape.kernel_width, pad = shape.pad_left, step = shape.dilation_height * input.pitch;
    // Windows from `begin` to `end` lie within a row.
    std::size_t end = input.width + pad < kernel ? 0 : (input.width + pad - kernel) / Stride + 1;
    if (end > output.width) end = output.width;
    std::size_t begin = (pad + Stride - 1) / Stride;
    if (begin > end) begin = end;
    const T zero = zero_of<T>(output);
    for (std::uint32_t channel = first; channel < last; ++channel) {
        clear_plane(output, channel, 0);
        const T* const plane_end = static_cast<const T*>(output.origin) + (channel + 1) * output.plane_stride;
        for (std::uint32_t image = 0; image < output.images; ++image) {
            for (std::uint32_t y = 0; y < output.height; ++y) {
                const std::int64_t top = std::int64_t{y} * shape.stride_height - shape.pad_top;
                const WindowRows rows = window_rows(shape, input, top);
                const T* const from = static_cast<const T*>(input.origin) + row_at(input, channel, image, rows.first);
                T* const to = static_cast<T*>(output.origin) + row_at(output, channel, image, y);
                const auto merge_inside = [&](std::size_t window_rows, std::size_t window_columns) {
                    merge_windows<kKind, Stride>(from + begin * Stride - pad, step, window_rows, window_columns,
                                                 to + begin, end - begin, zero, plane_end);
                };
                // The most frequent windows have code of their own, without loops over rows and columns.
                if (sizeof(T) == 1 && rows.count == 3 && kernel == 3 && end > begin) {
                    merge_inside(3, 3);
                } else if (end > begin && rows.count != 0) {
                    merge_inside(rows.count, kernel);
                }
                const auto merge_one = [&](std::size_t x) {
                    T total = identity;
                    for (std::size_t k = 0; k < kernel; ++k) {
                        const std::size_t column = x * Stride + k;  // in the padded row
                        if (column < pad || column - pad >= input.width) continue;
                        T rows_merged = identity;
                        for (std::size_t r = 0; r < rows.count; ++r) {
                            merge<kKind>(&rows_merged, from + (column - pad) + r * step, 1);
                        }
                        total = merged<kKind, T>(total, rows_merged);
                    }
                    to[x] = total;
                };
                const bool is_inside = rows.count != 0;
                for (std::size_t x = 0; x < (is_inside ? begin : output.width); ++x) merge_one(x);
                for (std::size_t x = end; x < output.width; ++x) merge_one(x);
                if constexpr (kKind == Pool::kAverage) divide_by_counts(shape, input, top, to, output.width);
            }
        }
    }
}

// Any windows, of real numbers. Rows first, for all of an image, then columns: what has just been stored in other
// pieces is slow to load.
template <Pool kKind>
void pool_rows(const Planes& input, const PoolShape& shape, const Planes& output, float identity, float* scratch,
               std::uint32_t first, std::uint32_t last) {
    const std::size_t reach = (shape.kernel_width - 1) * shape.dilation_width;
    std::size_t padded = (output.width - 1) * shape.stride_width + reach + 1;
    if (padded < shape.pad_left + input.width) padded = shape.pad_left + input.width;
    float* const columns = scratch;                       // [output.height][padded]: windows' rows merged
    float* const row = columns + output.height * padded;  // [input.width]
    float* const result = row + input.width;              // [output.width]
    const float* const result_end = result + output.width;
    for (std::uint32_t channel = first; channel < last; ++channel) {
        clear_plane(output, channel, 0);
        for (std::uint32_t image = 0; image < output.images; ++image) {
            for (std::uint32_t y = 0; y < output.height; ++y) {
                float* const column = columns + y * padded;
                for (std::size_t i = 0; i < padded; ++i) column[i] = identity;
                const WindowRows rows =
                    window_rows(shape, input, std::int64_t{y} * shape.stride_height - shape.pad_top);
                for (std::size_t k = 0; k < rows.count; ++k) {
                    const std::size_t at =
                        row_at(input, channel, image, rows.first) + k * shape.dilation_height * input.pitch;
                    merge<kKind>(column + shape.pad_left, to_floats(input, at, input.width, row), input.width);
                }
            }
            for (std::uint32_t y = 0; y < output.height; ++y) {
                const float* const column = columns + y * padded;
                if (shape.stride_width == 2 && shape.dilation_width == 1) {
                    merge_windows<kKind, 2>(column, 0, 1, shape.kernel_width, result, output.width, 0.0f, result_end);
                } else {
                    for (std::size_t i = 0; i < output.width; ++i) result[i] = column[shape.stride_width * i];
                    for (std::uint32_t k = 1; k < shape.kernel_width; ++k) {
                        merge<kKind>(result, column + std::size_t{k} * shape.dilation_width, output.width,
                                     shape.stride_width);
                    }
                }
                if constexpr (kKind == Pool::kAverage) {
                    const std::int64_t top = std::int64_t{y} * shape.stride_height - shape.pad_top;
                    divide_by_counts(shape, input, top, result, output.width);
                }
                write_row(output, channel, image, y, result);
            }
        }
    }
}

template <Pool kKind, class T>
bool pool_elements(const Planes& input, const PoolShape& shape, const Planes& output, T identity, std::uint32_t first,
                   std::uint32_t last) {
    if (input.element != output.element || shape.dilation_width != 1 || shape.stride_width > 2) return false;
    if (shape.stride_width == 1) {
        pool_elements<kKind, 1>(input, shape, output, identity, first, last);
    } else {
        pool_elements<kKind, 2>(input, shape, output, identity, first, last);
    }
    return true;
}

inline void pool(Pool kind, const Planes& input, const PoolShape& shape, const Planes& output, float* scratch,
                 std::uint32_t first, std::uint32_t last) {
    const bool is_float = input.element == Element::kFloat32;
    if (kind == Pool::kAverage) {
        if (is_float && pool_elements<Pool::kAverage, float>(input, shape, output, 0.0f, first, last)) return;
        pool_rows<Pool::kAverage>(input, shape, output, 0.0f, scratch, first, last);
    } else {
        if (is_float && pool_elements<Pool::kMax, float>(input, shape, output, kLowest, first, last)) return;
        if (!is_float && pool_elements<Pool::kMax, std::uint8_t>(input, shape, output, 0, first, last)) return;
        // Also of levels whose output is one of the graph's: real numbers.
        pool_rows<Pool::kMax>(input, shape, output, kLowest, scratch, first, last);
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
                    merge<kKind>(column, to_floats(input, at, input.width, row), input.width);
                }
                for (std::uint64_t x = 0; x < output.width; ++x) {
                    const std::uint64_t left = x * input.width / output.width;
                    const std::uint64_t right = ((x + 1) * input.width + output.width - 1) / output.width;
                    float total = column[left];
                    for (std::uint64_t i = left + 1; i < right; ++i) merge<kKind>(&total, column + i, 1);
                    if (kKind == Pool::kAverage) total /= static_cast<float>((bottom - top) * (right - left));
                    result[x] = total;
                }
                write_row(output, channel, image, static_cast<std::uint32_t>(y), result);
            }
        }
    }
}

// The sum in `kParts` parts, so that it vectorizes and has one order on every instruction set.
template <class Sum, class T>
inline Sum sum_of(const T* elements, std::size_t count) {
    constexpr std::size_t kParts = 16;
    Sum parts[kParts] = {};
    std::size_t i = 0;
    for (; i + kParts <= count; i += kParts) {
        for (std::size_t j = 0; j < kParts; ++j) parts[j] += elements[i + j];
    }
    Sum total{};
    for (; i < count; ++i) total += elements[i];
    for (std::size_t j = 0; j < kParts; ++j) total += parts[j];
    return total;
}

inline std::uint64_t sum_of_bytes(const std::uint8_t* bytes, std::size_t count) {
#if defined(__AVX2__)
    Vector<std::uint64_t, 16> parts{};
    std::size_t i = 0;
    for (; i + 16 <= count; i += 16) {
        const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes + i));
        parts += (Vector<std::uint64_t, 16>)_mm_sad_epu8(x, _mm_setzero_si128());
    }
    std::uint64_t total = parts[0] + parts[1];
    for (; i < count; ++i) total += bytes[i];
    return total;
#else
    // In pieces, so that their sums fit.
    constexpr std::size_t kPiece = std::size_t{1} << 23;
    std::uint64_t total = 0;
    for (std::size_t i = 0; i < count; i += kPiece) {
        total += sum_of<std::uint32_t>(bytes + i, count - i < kPiece ? count - i : kPiece);
    }
    return total;
#endif
}

// The mean of all pixels: of levels their exact sum, divided once. Zeros between the rows and behind the last one add
// nothing. Means become levels several at a time.
inline void global_average(const Planes& input, const Planes& output, std::uint32_t first, std::uint32_t last) {
    const float count = static_cast<float>(input.height) * static_cast<float>(input.width);
    const std::size_t span = (input.height - 1) * input.pitch + input.width;
    const std::size_t image_size = input.image_stride;
    const auto empty = static_cast<std::int64_t>(input.levels.zero * image_size);
    const auto mean = [&](std::uint32_t channel, std::uint32_t image) {
        const std::size_t at = row_at(input, channel, image, 0);
        if (input.element == Element::kFloat32) {
            return sum_of<float>(static_cast<const float*>(input.origin) + at, span) / count;
        }
        const std::uint8_t* const bytes = static_cast<const std::uint8_t*>(input.origin) + at;
        const auto levels = static_cast<std::int64_t>(sum_of_bytes(bytes, image_size)) - empty;
        return static_cast<float>(levels) * input.levels.step / count;
    };
    constexpr std::uint32_t kTogether = kFloatLanes;
    Planes room = output;
    alignas(kAlignment) unsigned char elements[kTogether * sizeof(float)];
    room.origin = elements;
    const std::size_t size = size_of(output.element);
    for (std::uint32_t begin = first; begin < last; begin += kTogether) {
        const std::uint32_t channels = last - begin < kTogether ? last - begin : kTogether;
        for (std::uint32_t c = 0; c < channels; ++c) clear_plane(output, begin + c, 0);
        for (std::uint32_t image = 0; image < input.images; ++image) {
            float means[kTogether] = {};
            for (std::uint32_t c = 0; c < channels; ++c) means[c] = mean(begin + c, image);
            from_floats(room, 0, means, kTogether);
            for (std::uint32_t c = 0; c < channels; ++c) {
                unsigned char* const to =
                    static_cast<unsigned char*>(output.origin) + row_at(output, begin + c, image, 0) * size;
                for (std::size_t i = 0; i < size; ++i) to[i] = elements[c * size + i];
            }
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
