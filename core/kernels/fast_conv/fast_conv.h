// Dense convolutions of bytes with fewer multiplications, exact in whole numbers.
//
// Outputs are computed in tiles of two rows and two columns. In each dimension, two outputs of a filter of r taps need
// the r + 1 inputs from d[0] on, and r + 1 products instead of 2 r: one at each of r + 1 points (S. Winograd,
// Arithmetic Complexity of Computations, 1980; A. Lavin and S. Gray, arXiv 1509.09308, by the algorithm of Toom and
// Cook). The points of r taps are infinity and the first r of 0, 1, -1, 2. With M(x) the product of x - b over the
// finite points b, and N(a) that of a - b over those other than a:
//
//     at a:         p(a) = (L / N(a) * sum of a^k w[k])  *  (d[k] times the coefficients of M(x) / (x - a))
//     at infinity:  p    = (L * w[r - 1])                *  (d[k] times the coefficients of M(x))
//     L y[0] = sum of p(a),     L y[1] = sum of a p(a), and p at infinity
//
// L makes all of L / N(a) whole: 6 where there are four taps (N is 2, -2, -6 and 6), else 2 (three taps need it).
// Two dimensions nest, and give L^2 y, which is divided exactly. How outputs are made of products depends on the
// points alone: products of all channels, and of all phases of a strided convolution, are summed first, point by point.
//
// In one dimension, the coefficients of inputs are at most 3 in sum of either sign, and at most 6 in all; those of
// weights are at most 15. So what is multiplied fits 16 bits: 3 * 6 * 255 and 15 * 15 * 128. Sums are computed modulo
// 2^32, and a plan makes sure that L^2 y itself fits 32 bits.
#pragma once

#include "core/kernels/image_ops/rows.h"

namespace sterna::STERNA_ISA {
namespace {

inline constexpr std::size_t kFastPoints = kFastTaps + 1;
// A vector of columns is half as many tiles, whose sums are two vectors.
inline constexpr std::size_t kFastHalves = 2;
inline constexpr std::size_t kFastSums = kFastHalves * kFiltersPerBlock;
static_assert(kFastTaps == 4 && 3 * 6 * 255 <= 32767 && 15 * 15 * 128 <= 32767);

// Calls `work` with the number of taps, as a type.
template <class Work>
inline void for_taps(std::uint32_t taps, const Work& work) {
    switch (taps) {
        case 1:
            return work(std::integral_constant<std::uint32_t, 1>());
        case 2:
            return work(std::integral_constant<std::uint32_t, 2>());
        case 3:
            return work(std::integral_constant<std::uint32_t, 3>());
        default:
            return work(std::integral_constant<std::uint32_t, kFastTaps>());
    }
}

// The inputs of a line to what is multiplied at each point; infinity last.
template <std::uint32_t kTaps>
inline void transform_line(Shorts* d) {
    if constexpr (kTaps == 2) {
        d[0] = d[1] - d[0];
        d[2] = d[2] - d[1];
    } else if constexpr (kTaps == 3) {
        d[0] = d[2] - d[0];
        d[3] = d[3] - d[1];
        const Shorts sum = d[2] + d[1];
        d[2] = d[2] - d[1];
        d[1] = sum;
    } else if constexpr (kTaps == 4) {
        const Shorts near = d[2] - d[0], middle = d[2] - d[1], far = d[3] - d[1], last = d[3] - d[2];
        d[0] = far - (near + near);
        d[4] = (d[4] - d[2]) - (far + far);
        d[1] = last - (d[1] + d[1]);
        d[2] = last - (middle + middle);
        d[3] = far;
    }
}

// The first and the second output of a line of sums, which are kFastSums apart.
template <std::uint32_t kTaps>
inline void combine_line(const Words* sums, Words& first, Words& second) {
    first = sums[0];
    second = sums[kTaps * kFastSums];
    if constexpr (kTaps > 1) {
        const Words one = sums[kFastSums];
        first += one;
        second += one;
    }
    if constexpr (kTaps > 2) {
        const Words minus_one = sums[2 * kFastSums];
        first += minus_one;
        second -= minus_one;
    }
    if constexpr (kTaps > 3) {
        const Words two = sums[3 * kFastSums];
        first += two;
        second += two + two;
    }
}

// One plane's inputs of as many columns as a vector has bytes: columns with even and with odd numbers are the low and
// the high bytes of 16-bit lanes.
inline void take_plane(const std::uint8_t* from, std::size_t pitch, const FastPlane& plane, const std::uint32_t* slots,
                       Shorts* to) {
    Shorts across[kFastPoints * kFastPoints];
    const std::uint32_t rows = plane.rows, columns = plane.columns;
    for_taps(columns, [&](auto taps) {
        constexpr std::uint32_t kTaps = decltype(taps)::value;
        for (Shorts *line = across, *const end = across + (rows + 1) * kFastPoints; line != end;
             line += kFastPoints, from += pitch) {
            kept(from);
            kept(line);
            Shorts d[kTaps / 2 * 2 + 2];
            for (std::uint32_t i = 0; i <= kTaps; i += 2) {
                const Vector<std::uint16_t, kVectorBytes> pairs = load_pairs(from + i);
                d[i] = (Shorts)(pairs & 0xff);
                d[i + 1] = (Shorts)(pairs >> 8);
            }
            transform_line<kTaps>(d);
            for (std::uint32_t i = 0; i <= kTaps; ++i) line[i] = d[i];
        }
    });
    for_taps(rows, [&](auto taps) {
        constexpr std::uint32_t kTaps = decltype(taps)::value;
        for (std::uint32_t column = 0; column <= columns; ++column, slots += kTaps + 1) {
            const Shorts* line = across + column;
            kept(line);
            kept(slots);
            Shorts d[kTaps + 1];
            for (std::uint32_t i = 0; i <= kTaps; ++i) d[i] = line[i * kFastPoints];
            transform_line<kTaps>(d);
            for (std::uint32_t i = 0; i <= kTaps; ++i) to[slots[i]] = d[i];
        }
    });
}

// All inputs of one vector of columns, in pairs.
inline void take_inputs(const FastConv& conv, const std::uint8_t* input, Shorts* to) {
    const std::uint32_t* slots = conv.slots;
    for (std::uint32_t i = 0; i < conv.plane_count; ++i) {
        const FastPlane& plane = conv.planes[i];
        take_plane(input + plane.offset, conv.output.pitch, plane, slots, to);
        slots += (plane.rows + 1) * (plane.columns + 1);
    }
    for (const Shorts* const end = to + 2 * conv.pairs; to != end; to += 2) {
        const Interleaved both = interleave(to[0], to[1]);
        to[0] = both.low;
        to[1] = both.high;
    }
}

// Sums of a block of filters at all points: [point][filter][half].
template <std::size_t... F>
inline void sum_points(const FastConv& conv, const Shorts* x, const std::int16_t* pair, Words* sums,
                       std::index_sequence<F...>) {
    const std::uint32_t* const end = conv.point_pairs + (conv.rows + 1) * (conv.columns + 1);
    for (const std::uint32_t* point = conv.point_pairs; point != end; ++point, sums += kFastSums) {
        Ints low[] = {multiply_pairs(x[0], broadcast_pair(pair + 2 * F))...};
        Ints high[] = {multiply_pairs(x[1], broadcast_pair(pair + 2 * F))...};
        x += 2;
        pair += 2 * kFiltersPerBlock;
        for (std::uint32_t i = *point; i > 1; --i, x += 2, pair += 2 * kFiltersPerBlock) {
            kept(pair);
            kept(x);
            const Shorts a = x[0], b = x[1];
            const Shorts w[] = {broadcast_pair(pair + 2 * F)...};
            ((low[F] = multiply_add_pairs(a, w[F], low[F])), ...);
            ((high[F] = multiply_add_pairs(b, w[F], high[F])), ...);
        }
        ((sums[kFastHalves * F] = (Words)low[F], sums[kFastHalves * F + 1] = (Words)high[F]), ...);
    }
}

// The outputs of a vector of columns of a filter's two rows.
struct FastOutputs {
    Quarters row[2][kFastVectors];
};

// Those of a block of filters, from its sums.
template <std::uint32_t kColumns>
inline void make_outputs(const FastConv& conv, const Words* sums, FastOutputs* outputs, std::size_t vector) {
    constexpr std::size_t kRow = (kColumns + 1) * kFastSums;
    const std::uint32_t inverse = conv.inverse, rows = conv.rows;
    // By four, and by an odd number modulo 2^32.
    const auto divided = [=](Words sum) { return (Ints)((Words)((Ints)sum >> 2) * inverse); };
    for (std::size_t i = 0; i < kFastSums; ++i, ++sums) {
        const Words* row = sums;
        kept(row);
        Words left, right, top_left, top_right, low_left, low_right;
        combine_line<kColumns>(row, top_left, top_right);
        combine_line<kColumns>(row + rows * kRow, low_left, low_right);
        if (rows > 1) {
            combine_line<kColumns>(row + kRow, left, right);
            top_left += left;
            top_right += right;
            low_left += left;
            low_right += right;
        }
        if (rows > 2) {
            combine_line<kColumns>(row + 2 * kRow, left, right);
            top_left += left;
            top_right += right;
            low_left -= left;
            low_right -= right;
        }
        if (rows > 3) {
            combine_line<kColumns>(row + 3 * kRow, left, right);
            top_left += left;
            top_right += right;
            low_left += left + left;
            low_right += right + right;
        }
        FastOutputs& to = outputs[i / kFastHalves];
        const InterleavedInts top = interleave(divided(top_left), divided(top_right));
        const InterleavedInts low = interleave(divided(low_left), divided(low_right));
        Ints* const part = to.row[0][vector].part + 2 * (i % kFastHalves);
        Ints* const low_part = to.row[1][vector].part + 2 * (i % kFastHalves);
        part[0] = top.low;
        part[1] = top.high;
        low_part[0] = low.low;
        low_part[1] = low.high;
    }
}

// Two rows of `vectors` of columns, of units `first` to `last` of kFastFilters filters.
inline void fast_run(const FastConv& conv, Shorts* inputs, std::size_t flat, std::size_t vectors, std::uint32_t first,
                     std::uint32_t last) {
    Words sums[kFastPoints * kFastPoints * kFastSums];
    FastOutputs outputs[kFiltersPerBlock];
    const std::size_t slots = 2 * std::size_t{conv.pairs};
    for (std::size_t v = 0; v < vectors; ++v) {
        take_inputs(conv, conv.input + flat + v * kVectorBytes, inputs + v * slots);
    }
    const std::uint32_t end = last * kFastFilters < conv.filters ? last * kFastFilters : conv.filters;
    for (std::uint32_t begin = first * kFastFilters; begin < end; begin += kFiltersPerBlock) {
        const std::int16_t* const weights = conv.weights + begin * slots;
        for (std::size_t v = 0; v < vectors; ++v) {
            sum_points(conv, inputs + v * slots, weights, sums, std::make_index_sequence<kFiltersPerBlock>{});
            for_taps(conv.columns, [&](auto taps) { make_outputs<decltype(taps)::value>(conv, sums, outputs, v); });
        }
        for (std::uint32_t filter = begin; filter < begin + kFiltersPerBlock && filter < end; ++filter) {
            for (std::size_t row = 0; row < 2; ++row) {
                finish_vectors<Layout::kPlain>(outputs[filter - begin].row[row][0].part, vectors, conv.excess[filter],
                                               conv.epilogue, filter, flat + row * conv.output.pitch, conv.output);
            }
        }
    }
}

inline void fast_conv(const FastConv& conv, void* scratch, std::uint32_t first, std::uint32_t last) {
    const std::size_t odd = reinterpret_cast<std::uintptr_t>(scratch) % kAlignment;
    auto* const inputs =
        reinterpret_cast<Shorts*>(static_cast<unsigned char*>(scratch) + (odd == 0 ? 0 : kAlignment - odd));
    const Planes& output = conv.output;
    for (std::size_t image = 0; image < output.images; ++image) {
        for (std::size_t row = 0; row < output.height; row += 2) {
            // The last row of an odd number comes again with the one before it, and vectors at the end of a plane
            // begin earlier: whatever is computed twice is the same, and nothing behind the plane is read or written.
            const std::size_t top = row + 2 <= output.height ? row : output.height - 2;
            for (std::size_t x = 0; x < output.width; x += conv.run) {
                const std::size_t count = output.width - x < conv.run ? output.width - x : conv.run;
                const std::size_t vectors = (count + kVectorBytes - 1) / kVectorBytes;
                const std::size_t flat = image * output.image_stride + top * output.pitch + x;
                const std::size_t most = output.plane_stride - output.pitch - vectors * kVectorBytes;
                fast_run(conv, inputs, flat < most ? flat : most, vectors, first, last);
            }
        }
    }
    const std::uint32_t end = last * kFastFilters < conv.filters ? last * kFastFilters : conv.filters;
    clear_gaps(output, first * kFastFilters, end);
}

}  // namespace
}  // namespace sterna::STERNA_ISA
