// Vectors of the instruction set that this file is compiled for.
//
// Included once by kernel_set.cc for each instruction set, with STERNA_ISA as the name of a namespace: nothing here may
// have the same linker name in two of them, or one set's code could run on a processor of another.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#elif defined(__wasm_simd128__)
#include <wasm_simd128.h>
#endif

#include "core/kernels/kernel_types.h"

namespace sterna::STERNA_ISA {
namespace {

template <class T, std::size_t Bytes>
struct VectorOf {
    typedef T type __attribute__((vector_size(Bytes)));
};
template <class T, std::size_t Bytes>
using Vector = typename VectorOf<T, Bytes>::type;

#if defined(__AVX512F__)
inline constexpr std::size_t kVectorBytes = 64;
#elif defined(__AVX2__)
inline constexpr std::size_t kVectorBytes = 32;
#else
inline constexpr std::size_t kVectorBytes = 16;
#endif

template <class T, std::size_t Bytes>
inline Vector<T, Bytes> load(const T* from) {
    Vector<T, Bytes> vector;
    __builtin_memcpy(&vector, from, Bytes);
    return vector;
}

template <class V, class T>
inline void store(T* to, const V& vector) {
    __builtin_memcpy(to, &vector, sizeof(V));
}

using Floats = Vector<float, kVectorBytes>;
using Shorts = Vector<std::int16_t, kVectorBytes>;
using Ints = Vector<std::int32_t, kVectorBytes>;
inline constexpr std::size_t kFloatLanes = kVectorBytes / sizeof(float);
inline constexpr std::size_t kShortLanes = kVectorBytes / sizeof(std::int16_t);

// As many elements as a vector of floats has, widened.
inline Ints load_ints(const std::int32_t* from) {
    return load<std::int32_t, kVectorBytes>(from);
}
inline Ints load_ints(const std::int16_t* from) {
#if defined(__AVX512F__)
    return (Ints)_mm512_cvtepi16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#elif defined(__AVX2__)
    return (Ints)_mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#elif defined(__ARM_NEON)
    return (Ints)vmovl_s16(vld1_s16(from));
#elif defined(__wasm_simd128__)
    return (Ints)wasm_i32x4_load16x4(from);
#else
    return Ints{from[0], from[1], from[2], from[3]};
#endif
}
inline Ints load_ints(const std::uint8_t* from) {
#if defined(__AVX512F__)
    return (Ints)_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#elif defined(__AVX2__)
    return (Ints)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
#elif defined(__wasm_simd128__)
    return (Ints)wasm_u32x4_extend_low_u16x8(wasm_u16x8_extend_low_u8x16(wasm_v128_load32_zero(from)));
#else
    return Ints{from[0], from[1], from[2], from[3]};
#endif
}

inline Floats to_floats(Ints x) {
    return __builtin_convertvector(x, Floats);
}

#if defined(__wasm_simd128__)
// Beyond 2^23 floats have no fraction: adding such a number rounds, and its bits then count from those of its own.
inline v128_t rounded(Floats x, std::int32_t zero) {
    return (v128_t)((Ints)(x + 12582912.0f) - (0x4b400000 - zero));
}
#endif

// Nearest whole numbers, halves to even, plus `zero`; 0 to 255 after that.
inline void store_rounded(std::uint8_t* to, Floats x, std::int32_t zero) {
#if defined(__AVX512F__)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                     _mm512_cvtepi32_epi8((__m512i)((Ints)_mm512_cvtps_epi32((__m512)x) + zero)));
#elif defined(__AVX2__)
    const __m256i ints = (__m256i)((Ints)_mm256_cvtps_epi32((__m256)x) + zero);
    const __m128i shorts = _mm_packs_epi32(_mm256_castsi256_si128(ints), _mm256_extracti128_si256(ints, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packus_epi16(shorts, shorts));
#elif defined(__wasm_simd128__)
    const v128_t ints = rounded(x, zero);
    const v128_t shorts = wasm_i16x8_narrow_i32x4(ints, ints);
    wasm_v128_store32_lane(to, wasm_u8x16_narrow_i16x8(shorts, shorts), 0);
#else
    const Floats big = Floats{} + 12582912.0f;  // beyond 2^23 floats have no fraction
    const Floats rounded = (x + big) - big;
    const Ints ints = __builtin_convertvector(rounded, Ints) + zero;
    for (std::size_t i = 0; i < kFloatLanes; ++i) to[i] = static_cast<std::uint8_t>(ints[i]);
#endif
}

// Vectors of floats from which bytes are made together, and into which they are widened.
#if defined(__wasm_simd128__)
inline constexpr std::size_t kVectorsOfBytes = 4;

inline void load_ints(const std::uint8_t* from, Ints (&to)[kVectorsOfBytes]) {
    const v128_t bytes = wasm_v128_load(from);
    const v128_t low = wasm_u16x8_extend_low_u8x16(bytes), high = wasm_u16x8_extend_high_u8x16(bytes);
    to[0] = (Ints)wasm_u32x4_extend_low_u16x8(low);
    to[1] = (Ints)wasm_u32x4_extend_high_u16x8(low);
    to[2] = (Ints)wasm_u32x4_extend_low_u16x8(high);
    to[3] = (Ints)wasm_u32x4_extend_high_u16x8(high);
}

inline void store_rounded(std::uint8_t* to, const Floats (&x)[kVectorsOfBytes], std::int32_t zero) {
    const v128_t low = wasm_i16x8_narrow_i32x4(rounded(x[0], zero), rounded(x[1], zero));
    const v128_t high = wasm_i16x8_narrow_i32x4(rounded(x[2], zero), rounded(x[3], zero));
    wasm_v128_store(to, wasm_u8x16_narrow_i16x8(low, high));
}
#else
inline constexpr std::size_t kVectorsOfBytes = 1;
#endif

inline Floats multiply_add(Floats a, Floats b, Floats sum) {
#if defined(__AVX512F__)
    return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)sum);
#elif defined(__FMA__)
    return (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)sum);
#elif defined(__ARM_NEON)
    return (Floats)vfmaq_f32((float32x4_t)sum, (float32x4_t)a, (float32x4_t)b);
#else
    return sum + a * b;
#endif
}

// Lanes of two vectors in turns: as `low` and `high` halves, each within 128 bits of its own where the set has no more.
struct Interleaved {
    Shorts low, high;
};
inline Interleaved interleave(Shorts a, Shorts b) {
#if defined(__AVX512F__)
    return {(Shorts)_mm512_unpacklo_epi16((__m512i)a, (__m512i)b),
            (Shorts)_mm512_unpackhi_epi16((__m512i)a, (__m512i)b)};
#elif defined(__AVX2__)
    return {(Shorts)_mm256_unpacklo_epi16((__m256i)a, (__m256i)b),
            (Shorts)_mm256_unpackhi_epi16((__m256i)a, (__m256i)b)};
#else
    return {__builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11),
            __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15)};
#endif
}

// Bytes, widened to int16.
inline Shorts load_shorts(const std::uint8_t* from) {
#if defined(__AVX512F__)
    return (Shorts)_mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#elif defined(__AVX2__)
    return (Shorts)_mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#elif defined(__ARM_NEON)
    return (Shorts)vreinterpretq_s16_u16(vmovl_u8(vld1_u8(from)));
#elif defined(__wasm_simd128__)
    return (Shorts)wasm_u16x8_load8x8(from);
#else
    Shorts shorts;
    for (std::size_t i = 0; i < kShortLanes; ++i) shorts[i] = from[i];
    return shorts;
#endif
}

// sum[i] += pairs[2 i] * weights[2 i] + pairs[2 i + 1] * weights[2 i + 1], exact if no pair of products exceeds 32
// bits.
inline Ints multiply_add_pairs(Shorts pairs, Shorts weights, Ints sum) {
#if defined(__AVX512VNNI__)
    return (Ints)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)pairs, (__m512i)weights);
#elif defined(__AVX2__)
    return sum + (Ints)_mm256_madd_epi16((__m256i)pairs, (__m256i)weights);
#elif defined(__ARM_NEON)
    const int32x4_t low = vmull_s16(vget_low_s16((int16x8_t)pairs), vget_low_s16((int16x8_t)weights));
    const int32x4_t high = vmull_high_s16((int16x8_t)pairs, (int16x8_t)weights);
    return sum + (Ints)vpaddq_s32(low, high);
#elif defined(__SSE2__)
    typedef short Eight __attribute__((vector_size(16)));
    return sum + (Ints)__builtin_ia32_pmaddwd128((Eight)pairs, (Eight)weights);
#elif defined(__wasm_simd128__)
    return sum + (Ints)wasm_i32x4_dot_i16x8((v128_t)pairs, (v128_t)weights);
#else
    Ints products;
    for (int i = 0; i < 4; ++i) products[i] = pairs[2 * i] * weights[2 * i] + pairs[2 * i + 1] * weights[2 * i + 1];
    return sum + products;
#endif
}

// Writes two interleaved halves in the order of the lanes before.
template <class T, class V>
inline void store_interleaved(T* to, V low, V high) {
    constexpr std::size_t kLanes = kVectorBytes / sizeof(T);
#if defined(__AVX512F__)
    const __m512i first =
        _mm512_permutex2var_epi64((__m512i)low, _mm512_set_epi64(11, 10, 3, 2, 9, 8, 1, 0), (__m512i)high);
    const __m512i second =
        _mm512_permutex2var_epi64((__m512i)low, _mm512_set_epi64(15, 14, 7, 6, 13, 12, 5, 4), (__m512i)high);
    store(to, first);
    store(to + kLanes, second);
#elif defined(__AVX2__)
    store(to, _mm256_permute2x128_si256((__m256i)low, (__m256i)high, 0x20));
    store(to + kLanes, _mm256_permute2x128_si256((__m256i)low, (__m256i)high, 0x31));
#else
    store(to, low);
    store(to + kLanes, high);
#endif
}

inline Floats broadcast(float x) {
#if defined(__AVX512F__)
    return (Floats)_mm512_set1_ps(x);
#elif defined(__AVX2__)
    return (Floats)_mm256_set1_ps(x);
#else
    return Floats{x, x, x, x};
#endif
}

// Bytes as 16-bit lanes of two.
inline Vector<std::uint16_t, kVectorBytes> load_pairs(const std::uint8_t* from) {
    Vector<std::uint16_t, kVectorBytes> pairs;
    __builtin_memcpy(&pairs, from, kVectorBytes);
    return pairs;
}

// The sums of the first and of the second bytes of pairs, in the order of the bytes.
inline void store_pair_sums(std::int16_t* to, Vector<std::uint16_t, kVectorBytes> first,
                            Vector<std::uint16_t, kVectorBytes> second) {
    const Interleaved sums = interleave((Shorts)first, (Shorts)second);
    store_interleaved(to, sums.low, sums.high);
}

#if defined(__AVX512VNNI__)
// Four vectors of bytes, in turns: lane i of part p holds the bytes of one element of all four.
struct Quads {
    Ints part[4];
};
inline Quads interleave_bytes(const std::uint8_t* a, const std::uint8_t* b, const std::uint8_t* c,
                              const std::uint8_t* d) {
    const __m512i x = _mm512_loadu_si512(a), y = _mm512_loadu_si512(b);
    const __m512i z = _mm512_loadu_si512(c), w = _mm512_loadu_si512(d);
    const __m512i low_xy = _mm512_unpacklo_epi8(x, y), high_xy = _mm512_unpackhi_epi8(x, y);
    const __m512i low_zw = _mm512_unpacklo_epi8(z, w), high_zw = _mm512_unpackhi_epi8(z, w);
    return {{(Ints)_mm512_unpacklo_epi16(low_xy, low_zw), (Ints)_mm512_unpackhi_epi16(low_xy, low_zw),
             (Ints)_mm512_unpacklo_epi16(high_xy, high_zw), (Ints)_mm512_unpackhi_epi16(high_xy, high_zw)}};
}

// sum[i] += products of four bytes and four int8, exact.
inline Ints multiply_add_quads(Ints bytes, Ints weights, Ints sum) {
    return (Ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)bytes, (__m512i)weights);
}

inline Ints broadcast_quad(const std::int8_t* quad) {
    std::int32_t all;
    __builtin_memcpy(&all, quad, sizeof(all));
    return (Ints)_mm512_set1_epi32(all);
}

// Sums of interleaved bytes in the order of the bytes: part p holds elements 4 p to 4 p + 3 of each 16.
inline void store_quads(std::int32_t* to, const Ints (&part)[4]) {
    const __m512i a = (__m512i)part[0], b = (__m512i)part[1], c = (__m512i)part[2], d = (__m512i)part[3];
    const __m512i ab_low = _mm512_shuffle_i32x4(a, b, 0x44), ab_high = _mm512_shuffle_i32x4(a, b, 0xee);
    const __m512i cd_low = _mm512_shuffle_i32x4(c, d, 0x44), cd_high = _mm512_shuffle_i32x4(c, d, 0xee);
    store(to, _mm512_shuffle_i32x4(ab_low, cd_low, 0x88));
    store(to + 16, _mm512_shuffle_i32x4(ab_low, cd_low, 0xdd));
    store(to + 32, _mm512_shuffle_i32x4(ab_high, cd_high, 0x88));
    store(to + 48, _mm512_shuffle_i32x4(ab_high, cd_high, 0xdd));
}
#endif

// A pair of weights in every pair of lanes.
inline Shorts broadcast_pair(const std::int16_t* pair) {
    std::int32_t both;
    __builtin_memcpy(&both, pair, sizeof(both));
#if defined(__AVX512F__)
    return (Shorts)_mm512_set1_epi32(both);
#elif defined(__AVX2__)
    return (Shorts)_mm256_set1_epi32(both);
#else
    return (Shorts)Ints{both, both, both, both};
#endif
}

}  // namespace
}  // namespace sterna::STERNA_ISA
