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
// L makes all of L / N(a) whole: 6 where there are four taps (N is 2, -2, -6 and 6), 2 where there are three, else 1.
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
static_assert(kFastTaps == 4 && 3 * 6 * 255 <= 32767 && 15 * 15 * 128 <= 32767);

// The inputs of a line, `step` apart, to what is multiplied at each point; infinity last.
inline void transform_line(Shorts* d, std::size_t step, std::uint32_t taps) {
    const Shorts d0 = d[0], d1 = d[step];
    if (taps == 1) return;
    const Shorts d2 = d[2 * step];
    if (taps == 2) {
        d[0] = d1 - d0;
        d[2 * step] = d2 - d1;
        return;
    }
    const Shorts d3 = d[3 * step], far = d3 - d1, near = d2 - d0;
    if (taps == 3) {
        d[0] = near;
        d[step] = d2 + d1;
        d[2 * step] = d2 - d1;
        d[3 * step] = far;
        return;
    }
    const Shorts last = d3 - d2;
    d[0] = far - (near + near);
    d[step] = last - (d1 + d1);
    d[2 * step] = last - ((d2 - d1) + (d2 - d1));
    d[3 * step] = far;
    d[4 * step] = (d[4 * step] - d2) - (far + far);
}

// The first and the second output of a line of sums, `step` apart.
inline void combine_line(const Ints* sums, std::size_t step, std::uint32_t taps, Ints& first, Ints& second) {
    Words one = (Words)sums[0], two = (Words)sums[taps * step];
    if (taps > 1) {
        one += (Words)sums[step];
        two += (Words)sums[step];
    }
    if (taps > 2) {
        one += (Words)sums[2 * step];
        two -= (Words)sums[2 * step];
    }
    if (taps > 3) {
        one += (Words)sums[3 * step];
        two += (Words)sums[3 * step] + (Words)sums[3 * step];
    }
    first = (Ints)one;
    second = (Ints)two;
}

// One plane's inputs of as many columns as a vector has bytes: columns with even and with odd numbers are the low and
// the high bytes of 16-bit lanes.
inline void take_plane(const std::uint8_t* from, std::size_t pitch, const FastPlane& plane, const std::uint32_t* slots,
                       Shorts* to) {
    Shorts d[kFastPoints][kFastPoints + 1];
    const std::uint32_t rows = plane.rows, columns = plane.columns;
    for (std::uint32_t row = 0; row <= rows; ++row, from += pitch) {
        for (std::uint32_t i = 0; i <= columns; i += 2) {
            const Vector<std::uint16_t, kVectorBytes> pairs = load_pairs(from + i);
            d[row][i] = (Shorts)(pairs & 0xff);
            d[row][i + 1] = (Shorts)(pairs >> 8);
        }
        transform_line(d[row], 1, columns);
    }
    for (std::uint32_t column = 0; column <= columns; ++column) transform_line(&d[0][column], kFastPoints + 1, rows);
    for (std::uint32_t row = 0; row <= rows; ++row) {
        for (std::uint32_t column = 0; column <= columns; ++column) to[*slots++] = d[row][column];
    }
}

// All inputs of one vector of columns, in pairs.
inline void take_inputs(const FastConv& conv, const std::uint8_t* input, Shorts* to) {
    const std::uint32_t* slots = conv.slots;
    for (std::uint32_t i = 0; i < conv.plane_count; ++i) {
        const FastPlane& plane = conv.planes[i];
        take_plane(input + plane.offset, conv.output.pitch, plane, slots, to);
        slots += (plane.rows + 1) * (plane.columns + 1);
    }
    for (std::uint32_t i = 0; i < conv.pairs; ++i) {
        const Interleaved both = interleave(to[2 * i], to[2 * i + 1]);
        to[2 * i] = both.low;
        to[2 * i + 1] = both.high;
    }
}

// Sums of a block of filters at all points: [point][filter][half].
template <std::size_t... F>
inline void sum_points(const FastConv& conv, const Shorts* x, const std::int16_t* pair, Ints* sums,
                       std::index_sequence<F...>) {
    const std::uint32_t* const end = conv.point_pairs + (conv.rows + 1) * (conv.columns + 1);
    for (const std::uint32_t* point = conv.point_pairs; point != end; ++point) {
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
        ((sums[kFastHalves * F] = low[F], sums[kFastHalves * F + 1] = high[F]), ...);
        sums += kFastHalves * kFiltersPerBlock;
    }
}

// The outputs of a filter, two rows of a vector of columns, from its sums.
inline void make_outputs(const FastConv& conv, const Ints* sums, Quarters* top, Quarters* bottom) {
    constexpr std::size_t kStep = kFastHalves * kFiltersPerBlock;
    for (std::size_t half = 0; half < kFastHalves; ++half) {
        Ints across[2][kFastPoints], y[2][2];
        for (std::uint32_t row = 0; row <= conv.rows; ++row) {
            combine_line(sums + half + row * (conv.columns + 1) * kStep, kStep, conv.columns, across[0][row],
                         across[1][row]);
        }
        for (std::size_t column = 0; column < 2; ++column) {
            combine_line(across[column], 1, conv.rows, y[0][column], y[1][column]);
        }
        for (std::size_t row = 0; row < 2; ++row) {
            // A power of two and an odd number, which is divided by modulo 2^32.
            for (Ints& part : y[row]) part = (Ints)((Words)(part >> conv.shift) * conv.inverse);
            const InterleavedInts both = interleave(y[row][0], y[row][1]);
            Quarters& to = row == 0 ? *top : *bottom;
            to.part[2 * half] = both.low;
            to.part[2 * half + 1] = both.high;
        }
    }
}

// Two rows of `vectors` of columns, of units `first` to `last` of kFastFilters filters.
inline void fast_run(const FastConv& conv, Shorts* inputs, std::size_t flat, std::size_t vectors, std::uint32_t first,
                     std::uint32_t last) {
    Ints sums[kFastPoints * kFastPoints * kFastHalves * kFiltersPerBlock];
    Quarters outputs[kFiltersPerBlock][2][kFastVectors];
    const std::size_t slots = 2 * std::size_t{conv.pairs};
    for (std::size_t v = 0; v < vectors; ++v) {
        take_inputs(conv, conv.input + flat + v * kVectorBytes, inputs + v * slots);
    }
    const std::uint32_t end = last * kFastFilters < conv.filters ? last * kFastFilters : conv.filters;
    for (std::uint32_t begin = first * kFastFilters; begin < end; begin += kFiltersPerBlock) {
        const std::int16_t* const weights = conv.weights + begin * slots;
        for (std::size_t v = 0; v < vectors; ++v) {
            sum_points(conv, inputs + v * slots, weights, sums, std::make_index_sequence<kFiltersPerBlock>{});
            for (std::size_t f = 0; f < kFiltersPerBlock; ++f) {
                make_outputs(conv, sums + kFastHalves * f, &outputs[f][0][v], &outputs[f][1][v]);
            }
        }
        for (std::uint32_t filter = begin; filter < begin + kFiltersPerBlock && filter < end; ++filter) {
            for (std::size_t row = 0; row < 2; ++row) {
                finish_vectors<Layout::kPlain>(outputs[filter - begin][row][0].part, vectors, conv.excess[filter],
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
