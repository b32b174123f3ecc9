// Pooling, resizing and padding: row by row, in float32.
#pragma once

#include "core/kernels/image_ops/rows.h"
#include "core/kernels/kernel_set.h"

namespace sterna::STERNA_ISA {
namespace {

inline constexpr float kLowest = -3.402823466e38f;

inline void merge(Pool pool, float* into, const float* from, std::size_t count) {
    if (pool == Pool::kMax) {
        for (std::size_t i = 0; i < count; ++i) into[i] = from[i] > into[i] ? from[i] : into[i];
    } else {
        for (std::size_t i = 0; i < count; ++i) into[i] += from[i];
    }
}

template <std::size_t Stride>
inline void merge_strided(Pool pool, float* into, const float* from, std::size_t count) {
    if (pool == Pool::kMax) {
        for (std::size_t i = 0; i < count; ++i) into[i] = from[Stride * i] > into[i] ? from[Stride * i] : into[i];
    } else {
        for (std::size_t i = 0; i < count; ++i) into[i] += from[Stride * i];
    }
}

// Positions of a window along one axis that lie in the input, and (for averages that count the padding) in the padded input.
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

inline void pool(Pool kind, const Planes& input, const PoolShape& shape, const Planes& output, float* scratch,
                 std::uint32_t first, std::uint32_t last) {
    const float identity = kind == Pool::kMax ? kLowest : 0.0f;
    const std::size_t reach = (shape.kernel_width - 1) * shape.dilation_width;
    std::size_t padded = (output.width - 1) * shape.stride_width + reach + 1;
    if (padded < shape.pad_left + input.width) padded = shape.pad_left + input.width;
    float* const column = scratch;           // [padded]: a window's rows merged
    float* const row = column + padded;      // [input.width]
    float* const result = row + input.width;  // [output.width]
    for (std::uint32_t channel = first; channel < last; ++channel) {
        clear_plane(output, channel, 0);
        for (std::uint32_t image = 0; image < output.images; ++image) {
            for (std::uint32_t y = 0; y < output.height; ++y) {
                for (std::size_t i = 0; i < padded; ++i) column[i] = identity;
                const std::int64_t top = std::int64_t{y} * shape.stride_height - shape.pad_top;
                for (std::uint32_t k = 0; k < shape.kernel_height; ++k) {
                    const std::int64_t source = top + std::int64_t{k} * shape.dilation_height;
                    if (source < 0 || source >= input.height) continue;
                    const std::size_t at = row_at(input, channel, image, static_cast<std::uint32_t>(source));
                    merge(kind, column + shape.pad_left, to_floats(input, at, input.width, row), input.width);
                }
                for (std::size_t i = 0; i < output.width; ++i) result[i] = identity;
                for (std::uint32_t k = 0; k < shape.kernel_width; ++k) {
                    const float* const from = column + std::size_t{k} * shape.dilation_width;
                    if (shape.stride_width == 1) {
                        merge(kind, result, from, output.width);
                    } else if (shape.stride_width == 2) {
                        merge_strided<2>(kind, result, from, output.width);
                    } else {
                        for (std::size_t i = 0; i < output.width; ++i) {
                            merge(kind, result + i, from + i * shape.stride_width, 1);
                        }
                    }
                }
                if (kind == Pool::kAverage) {
                    const Window rows = window(top, shape.kernel_height, input.height, shape.pad_bottom);
                    for (std::uint32_t x = 0; x < output.width; ++x) {
                        const std::int64_t left = std::int64_t{x} * shape.stride_width - shape.pad_left;
                        const Window columns = window(left, shape.kernel_width, input.width, shape.pad_right);
                        const std::int64_t count =
                            shape.count_include_pad ? rows.padded * columns.padded : rows.inside * columns.inside;
                        result[x] /= static_cast<float>(count);
                    }
                }
                write_row(output, channel, image, y, result);
            }
        }
    }
}

inline void adaptive_pool(Pool kind, const Planes& input, const Planes& output, float* scratch, std::uint32_t first,
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
                for (std::size_t i = 0; i < input.width; ++i) column[i] = kind == Pool::kMax ? kLowest : 0.0f;
                for (std::uint64_t source = top; source < bottom; ++source) {
                    const std::size_t at = row_at(input, channel, image, static_cast<std::uint32_t>(source));
                    merge(kind, column, to_floats(input, at, input.width, row), input.width);
                }
                for (std::uint64_t x = 0; x < output.width; ++x) {
                    const std::uint64_t left = x * input.width / output.width;
                    const std::uint64_t right = ((x + 1) * input.width + output.width - 1) / output.width;
                    float total = column[left];
                    for (std::uint64_t i = left + 1; i < right; ++i) merge(kind, &total, column + i, 1);
                    if (kind == Pool::kAverage) total /= static_cast<float>((bottom - top) * (right - left));
                    result[x] = total;
                }
                write_row(output, channel, image, static_cast<std::uint32_t>(y), result);
            }
        }
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
        if (output > 1) place = static_cast<float>(at) * (static_cast<float>(input - 1) / static_cast<float>(output - 1));
    } else {
        place = (static_cast<float>(at) + 0.5f) * (static_cast<float>(input) / static_cast<float>(output)) - 0.5f;
        place = place > 0.0f ? place : 0.0f;
    }
    auto low = static_cast<std::uint32_t>(place);
    if (low > input - 1) low = input - 1;
    const std::uint32_t high = low + 1 < input ? low + 1 : low;
    return {low, high, place - static_cast<float>(low)};
}

inline void resize(Resize kind, const Planes& input, const Planes& output, float* scratch, std::uint32_t first,
                   std::uint32_t last) {
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
