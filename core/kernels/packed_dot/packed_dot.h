// Products with packed signs, two bits each: linear layers of a few images, where lists of offsets would be longer than
// the weights and every input of a list is loaded alone.
//
// Code c = sign + 1 of weight i of a filter lies in byte 64 (i / 256) + i % 64, at bit 2 (i / 64 % 4). Of bytes the sum
// of x c is computed; the sum of x, the same for all filters, is then too much. Of floats the weight is looked up.
#pragma once

#include "core/kernels/image_ops/rows.h"

namespace sterna::STERNA_ISA {
namespace {

// sum[i] += the products of four bytes and four codes.
inline Ints multiply_add_codes(Bytes x, Bytes codes, Ints sum) {
#if defined(__AVX512VNNI__)
    return multiply_add_quads((Ints)x, (Ints)codes, sum);
#elif defined(__AVX2__)
    const __m256i pairs = _mm256_maddubs_epi16((__m256i)x, (__m256i)codes);
    return sum + (Ints)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#else
    const Interleaved wide_x = widen_bytes(x), wide_codes = widen_bytes(codes);
    sum = multiply_add_pairs(wide_x.low, wide_codes.low, sum);
    return multiply_add_pairs(wide_x.high, wide_codes.high, sum);
#endif
}

// The weights of codes in the lowest two bits of each lane; what is in the others does not matter.
inline Floats signs_of(Ints codes) {
#if defined(__AVX512F__)
    return (Floats)_mm512_permutevar_ps(_mm512_set4_ps(0.0f, 1.0f, 0.0f, -1.0f), (__m512i)codes);
#elif defined(__AVX2__)
    return (Floats)_mm256_permutevar_ps(_mm256_setr_ps(-1.0f, 0.0f, 1.0f, 0.0f, -1.0f, 0.0f, 1.0f, 0.0f),
                                        (__m256i)codes);
#else
    return to_floats((codes & 3) - 1);
#endif
}

template <class V>
inline auto sum_of_lanes(const V& x) {
    auto total = x[0];
    for (std::size_t i = 1; i < sizeof(V) / sizeof(x[0]); ++i) total += x[i];
    return total;
}

inline std::int32_t product(const std::uint8_t* packed, const std::uint8_t* x, std::size_t groups) {
    Ints total[kPackedPerByte] = {};
    for (std::size_t group = 0; group < groups; ++group, x += kPackedGroup) {
        for (std::size_t at = 0; at < kPackedBytes; at += kVectorBytes, packed += kVectorBytes) {
            const Vector<std::uint16_t, kVectorBytes> codes = load_pairs(packed);
            for (std::size_t k = 0; k < kPackedPerByte; ++k) {
                const Bytes inputs = load<std::uint8_t, kVectorBytes>(x + k * kPackedBytes + at);
                total[k] = multiply_add_codes(inputs, (Bytes)((codes >> (2 * k)) & 0x0303), total[k]);
            }
        }
    }
    return sum_of_lanes((total[0] + total[1]) + (total[2] + total[3]));
}

inline float product(const std::uint8_t* packed, const float* x, std::size_t groups) {
    Floats total[kPackedPerByte] = {};
    for (std::size_t group = 0; group < groups; ++group, x += kPackedGroup) {
        for (std::size_t at = 0; at < kPackedBytes; at += kFloatLanes, packed += kFloatLanes) {
            const Ints codes = load_ints(packed);
            for (std::size_t k = 0; k < kPackedPerByte; ++k) {
                const Floats inputs = load<float, kVectorBytes>(x + k * kPackedBytes + at);
                total[k] = multiply_add(inputs, signs_of(codes >> (2 * k)), total[k]);
            }
        }
    }
    return sum_of_lanes((total[0] + total[1]) + (total[2] + total[3]));
}

template <class T, class Sum>
void packed_dots(const PackedDot& dot, float* scratch, std::uint32_t first, std::uint32_t last) {
    T* const x = reinterpret_cast<T*>(scratch);
    const std::size_t groups = (dot.width + kPackedGroup - 1) / kPackedGroup;
    const std::size_t span = dot.output.span();
    for (std::size_t flat = 0; flat < span; ++flat) {
        const T* const input = static_cast<const T*>(dot.input) + flat;
        Sum all{};
        for (std::size_t i = 0; i < groups * kPackedGroup; ++i) {
            x[i] = i < dot.width ? input[i * dot.tap_stride] : T{};
            all += x[i];
        }
        for (std::uint32_t filter = first; filter < last; ++filter) {
            const std::uint8_t* const packed = dot.weights + filter * groups * kPackedBytes;
            Sum total = product(packed, x, groups);
            std::int32_t excess = 0;
            if constexpr (std::is_same_v<T, std::uint8_t>) excess = dot.excess[filter] + all;
            finish<1>(&total, excess, dot.epilogue, filter, flat, dot.output);
        }
    }
}

inline void packed_dot(const PackedDot& dot, float* scratch, std::uint32_t first, std::uint32_t last) {
    if (dot.element == Element::kFloat32) {
        packed_dots<float, float>(dot, scratch, first, last);
    } else {
        packed_dots<std::uint8_t, std::int32_t>(dot, scratch, first, last);
    }
    clear_gaps(dot.output, first, last);
}

}  // namespace
}  // namespace sterna::STERNA_ISA
