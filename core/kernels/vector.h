// Vectors of the instruction set that this file is compiled for.
//
// Included once by kernel_set.cc for each instruction set, with STERNA_ISA as the name of a namespace: nothing here may
// have the same linker name in two of them, or one set's code could run on a processor of another.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
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

// A pointer that the compiler takes as it is: loads near to it then have constant offsets in WebAssembly, where the
// compiler else computes the address of each by itself.
template <class T>
inline void kept([[maybe_unused]] T*& pointer) {
#if defined(__wasm__)
    asm("" : "+r"(pointer));
#endif
}

using Floats = Vector<float, kVectorBytes>;
using Shorts = Vector<std::int16_t, kVectorBytes>;
using Ints = Vector<std::int32_t, kVectorBytes>;
using Words = Vector<std::uint32_t, kVectorBytes>;  // for what is computed modulo 2^32
inline constexpr std::size_t kFloatLanes = kVectorBytes / sizeof(float);

// As many elements as a vector of floats has, widened.
inline Ints load_ints(const std::int32_t* from) {
    return load<std::int32_t, kVectorBytes>(from);
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

// The same of 32-bit lanes.
struct InterleavedInts {
    Ints low, high;
};
inline InterleavedInts interleave(Ints a, Ints b) {
#if defined(__AVX512F__)
    return {(Ints)_mm512_unpacklo_epi32((__m512i)a, (__m512i)b), (Ints)_mm512_unpackhi_epi32((__m512i)a, (__m512i)b)};
#elif defined(__AVX2__)
    return {(Ints)_mm256_unpacklo_epi32((__m256i)a, (__m256i)b), (Ints)_mm256_unpackhi_epi32((__m256i)a, (__m256i)b)};
#else
    return {__builtin_shufflevector(a, b, 0, 4, 1, 5), __builtin_shufflevector(a, b, 2, 6, 3, 7)};
#endif
}

// Lane i is pairs[2 i] * weights[2 i] + pairs[2 i + 1] * weights[2 i + 1], exact if no pair of products exceeds 32
// bits.
inline Ints multiply_pairs(Shorts pairs, Shorts weights) {
#if defined(__AVX512F__)
    return (Ints)_mm512_madd_epi16((__m512i)pairs, (__m512i)weights);
#elif defined(__AVX2__)
    return (Ints)_mm256_madd_epi16((__m256i)pairs, (__m256i)weights);
#elif defined(__ARM_NEON)
    const int32x4_t low = vmull_s16(vget_low_s16((int16x8_t)pairs), vget_low_s16((int16x8_t)weights));
    const int32x4_t high = vmull_high_s16((int16x8_t)pairs, (int16x8_t)weights);
    return (Ints)vpaddq_s32(low, high);
#elif defined(__SSE2__)
    typedef short Eight __attribute__((vector_size(16)));
    return (Ints)__builtin_ia32_pmaddwd128((Eight)pairs, (Eight)weights);
#elif defined(__wasm_simd128__)
    return (Ints)wasm_i32x4_dot_i16x8((v128_t)pairs, (v128_t)weights);
#else
    Ints products;
    for (int i = 0; i < 4; ++i) products[i] = pairs[2 * i] * weights[2 * i] + pairs[2 * i + 1] * weights[2 * i + 1];
    return products;
#endif
}

// The same, added to a sum modulo 2^32.
inline Ints multiply_add_pairs(Shorts pairs, Shorts weights, Ints sum) {
#if defined(__AVX512VNNI__)
    return (Ints)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)pairs, (__m512i)weights);
#else
    return (Ints)((Words)sum + (Words)multiply_pairs(pairs, weights));
#endif
}

// Elements with even and with odd indices of a run; of bytes sixteen, of floats as many as a vector has.
template <class T>
inline constexpr std::size_t kHalfBytes = sizeof(T) == 1 ? 16 : kVectorBytes;
template <class T>
struct Halves {
    Vector<T, kHalfBytes<T>> even, odd;
};
// A run of twice as many.
template <class T>
struct Twice {
    Vector<T, kHalfBytes<T>> low, high;
};
template <class T>
inline Twice<T> load_twice(const T* from) {
    constexpr std::size_t kBytes = kHalfBytes<T>;
    return {load<T, kBytes>(from), load<T, kBytes>(from + kBytes / sizeof(T))};
}
template <class T, std::size_t... I>
inline Halves<T> halves(const Twice<T>& run, std::index_sequence<I...>) {
    return {__builtin_shufflevector(run.low, run.high, (2 * I)...),
            __builtin_shufflevector(run.low, run.high, (2 * I + 1)...)};
}
template <class T>
inline Halves<T> halves(const Twice<T>& run) {
    return halves(run, std::make_index_sequence<kHalfBytes<T> / sizeof(T)>{});
}

// The first `count` lanes, and `other` in those behind them.
template <class T, class V, std::size_t... I>
inline V first_lanes(const V& x, std::size_t count, T other, std::index_sequence<I...>) {
    using Lane = std::conditional_t<sizeof(T) == 1, std::int8_t, std::int32_t>;
    const Vector<Lane, sizeof(V)> lanes = {static_cast<Lane>(I)...};
    return lanes < static_cast<Lane>(count) ? x : V{} + other;
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

// Sums of as many elements as a vector has bytes, in 32 bits. Of each sixteen, part p holds elements 4 p to 4 p + 3;
// or, transposed, lane i of part p holds element 4 i + p.
struct Quarters {
    Ints part[4];
};

// Transposed, from the sums of the first and of the second bytes of pairs.
inline Quarters widen_pair_sums(Shorts first, Shorts second) {
    const Ints a = (Ints)first, b = (Ints)second;
    return {{(a << 16) >> 16, (b << 16) >> 16, a >> 16, b >> 16}};
}

using Bytes = Vector<std::uint8_t, kVectorBytes>;

// Of each sixteen bytes, byte 4 i + p and byte 4 p + i change places.
inline Bytes transposed(Bytes x) {
#if defined(__AVX2__)
    const __m128i order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
#if defined(__AVX512F__)
    return (Bytes)_mm512_shuffle_epi8((__m512i)x, _mm512_broadcast_i32x4(order));
#else
    return (Bytes)_mm256_shuffle_epi8((__m256i)x, _mm256_broadcastsi128_si256(order));
#endif
#else
    return __builtin_shufflevector(x, x, 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
#endif
}

// Of the sixteen words of a vector of 64 bytes, word 4 i + p and word 4 p + i change places: instructions that work
// within sixteen bytes put words so. Shorter vectors stay as they are.
inline Bytes transposed_words(Bytes x) {
#if defined(__AVX512F__)
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return (Bytes)_mm512_permutexvar_epi32(order, (__m512i)x);
#else
    return x;
#endif
}

// Bytes, widened to 16 bits: of each sixteen, the first and the second eight.
inline Interleaved widen_bytes(Bytes x) {
#if defined(__AVX512F__)
    const __m512i zero = _mm512_setzero_si512();
    return {(Shorts)_mm512_unpacklo_epi8((__m512i)x, zero), (Shorts)_mm512_unpackhi_epi8((__m512i)x, zero)};
#elif defined(__AVX2__)
    const __m256i zero = _mm256_setzero_si256();
    return {(Shorts)_mm256_unpacklo_epi8((__m256i)x, zero), (Shorts)_mm256_unpackhi_epi8((__m256i)x, zero)};
#else
    const Bytes zero{};
    return {(Shorts)__builtin_shufflevector(x, zero, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23),
            (Shorts)__builtin_shufflevector(x, zero, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)};
#endif
}

// Bytes of two vectors in turns, widened to 16 bits: a lane of 32 bits of part p holds those of one element, in the
// order of quarters.
struct WidePairs {
    Shorts part[4];
};
inline WidePairs interleave_wide(Bytes a, Bytes b) {
#if defined(__AVX512F__)
    const Bytes low = (Bytes)_mm512_unpacklo_epi8((__m512i)a, (__m512i)b);
    const Bytes high = (Bytes)_mm512_unpackhi_epi8((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    const Bytes low = (Bytes)_mm256_unpacklo_epi8((__m256i)a, (__m256i)b);
    const Bytes high = (Bytes)_mm256_unpackhi_epi8((__m256i)a, (__m256i)b);
#else
    const Bytes low = __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const Bytes high = __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#endif
    const Interleaved first = widen_bytes(low), second = widen_bytes(high);
    return {{first.low, first.high, second.low, second.high}};
}

inline Quarters quarters(Bytes x) {
    const Interleaved shorts = widen_bytes(x);
    const Interleaved low = interleave(shorts.low, Shorts{}), high = interleave(shorts.high, Shorts{});
    return {{(Ints)low.low, (Ints)low.high, (Ints)high.low, (Ints)high.high}};
}

// Whether `round_bounded_quarters` is less work than limiting numbers from above and rounding them.
#if defined(__AVX2__) || defined(__wasm_simd128__)
inline constexpr bool kRoundsAnything = true;
#else
inline constexpr bool kRoundsAnything = false;
#endif

// Nearest whole numbers, halves to even, of four parts; not less than `lowest`, plus `zero`. Numbers are at most 255,
// or 127 if `lowest` is negative. What is no number becomes the lowest one.
inline Bytes round_quarters(const Floats (&x)[4], float lowest, std::int32_t zero) {
#if defined(__AVX512F__)
    const __m512i low = _mm512_packs_epi32(_mm512_cvtps_epi32((__m512)x[0]), _mm512_cvtps_epi32((__m512)x[1]));
    const __m512i high = _mm512_packs_epi32(_mm512_cvtps_epi32((__m512)x[2]), _mm512_cvtps_epi32((__m512)x[3]));
    if (lowest == 0.0f) return (Bytes)_mm512_packus_epi16(low, high);
    const __m512i limit = _mm512_set1_epi8(static_cast<char>(static_cast<int>(lowest)));
    return (Bytes)_mm512_max_epi8(_mm512_packs_epi16(low, high), limit) + static_cast<std::uint8_t>(zero);
#elif defined(__AVX2__)
    const __m256i low = _mm256_packs_epi32(_mm256_cvtps_epi32((__m256)x[0]), _mm256_cvtps_epi32((__m256)x[1]));
    const __m256i high = _mm256_packs_epi32(_mm256_cvtps_epi32((__m256)x[2]), _mm256_cvtps_epi32((__m256)x[3]));
    if (lowest == 0.0f) return (Bytes)_mm256_packus_epi16(low, high);
    const __m256i limit = _mm256_set1_epi8(static_cast<char>(static_cast<int>(lowest)));
    return (Bytes)_mm256_max_epi8(_mm256_packs_epi16(low, high), limit) + static_cast<std::uint8_t>(zero);
#elif defined(__wasm_simd128__)
    const v128_t limit = wasm_f32x4_splat(lowest);
    const auto part = [&](std::size_t p) { return rounded((Floats)wasm_f32x4_pmax(limit, (v128_t)x[p]), zero); };
    return (Bytes)wasm_u8x16_narrow_i16x8(wasm_i16x8_narrow_i32x4(part(0), part(1)),
                                          wasm_i16x8_narrow_i32x4(part(2), part(3)));
#else
    const Floats limit = Floats{} + lowest;
    std::uint8_t bytes[kVectorBytes];
    for (std::size_t p = 0; p < 4; ++p) {
        store_rounded(bytes + p * kFloatLanes, x[p] > limit ? x[p] : limit, zero);
    }
    return load<std::uint8_t, kVectorBytes>(bytes);
#endif
}

// The same of numbers within 2^22, none of which is no number; they may exceed the highest level.
inline Bytes round_bounded_quarters(const Floats (&x)[4], float lowest, std::int32_t zero) {
#if defined(__wasm_simd128__)
    // Packing limits to 0 and 255, of which only the lowest level may be another.
    const v128_t bytes = wasm_u8x16_narrow_i16x8(wasm_i16x8_narrow_i32x4(rounded(x[0], zero), rounded(x[1], zero)),
                                                 wasm_i16x8_narrow_i32x4(rounded(x[2], zero), rounded(x[3], zero)));
    return (Bytes)wasm_u8x16_max(bytes, wasm_u8x16_splat(static_cast<std::uint8_t>(static_cast<int>(lowest) + zero)));
#else
    return round_quarters(x, lowest, zero);
#endif
}

// Runs of a half of a vector, one after the other.
#if defined(__AVX512F__)
inline Ints load_halves(const std::uint8_t* a, const std::uint8_t* b) {
    const auto load_256 = [](const std::uint8_t* from) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    };
    return (Ints)_mm512_inserti64x4(_mm512_castsi256_si512(load_256(a)), load_256(b), 1);
}
inline Ints load_fourths(const std::uint8_t* a, const std::uint8_t* b, const std::uint8_t* c, const std::uint8_t* d) {
    const auto load_128 = [](const std::uint8_t* from) {
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    };
    const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(load_128(a)), load_128(b), 1);
    const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(load_128(c)), load_128(d), 1);
    return (Ints)_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}
#elif defined(__AVX2__)
inline Vector<std::uint16_t, kVectorBytes> load_halves(const std::uint8_t* a, const std::uint8_t* b) {
    const auto load_128 = [](const std::uint8_t* from) {
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    };
    return (Vector<std::uint16_t, kVectorBytes>)_mm256_inserti128_si256(_mm256_castsi128_si256(load_128(a)),
                                                                        load_128(b), 1);
}
#endif

// Of vectors of 32 bytes, changes the second and the third fourth.
inline Bytes merged_halves(Bytes x) {
#if defined(__AVX2__) && !defined(__AVX512F__)
    return (Bytes)_mm256_permute4x64_epi64((__m256i)x, 0xd8);
#else
    return x;
#endif
}

// The first `count` bytes.
template <class V>
inline void store_first(std::uint8_t* to, const V& x, std::size_t count) {
#if defined(__AVX512F__)
    const std::uint64_t mask = ~std::uint64_t{0} >> (64 - count);
    if constexpr (sizeof(V) == 64) {
        _mm512_mask_storeu_epi8(to, mask, (__m512i)x);
    } else if constexpr (sizeof(V) == 32) {
        _mm256_mask_storeu_epi8(to, static_cast<__mmask32>(mask), (__m256i)x);
    } else if constexpr (sizeof(V) == 16) {
        _mm_mask_storeu_epi8(to, static_cast<__mmask16>(mask), (__m128i)x);
    } else {
        static_assert(sizeof(V) == 8);
        _mm_mask_storeu_epi8(to, static_cast<__mmask16>(mask), _mm_cvtsi64_si128((long long)x));
    }
#else
    if (count == sizeof(V)) return store(to, x);
    std::uint8_t room[sizeof(V)];
    store(room, x);
    // In two halves, which overlap.
    constexpr std::size_t kHalf = sizeof(V) / 2;
    if (count >= kHalf) {
        const auto last = load<std::uint8_t, kHalf>(room + count - kHalf);
        store(to, load<std::uint8_t, kHalf>(room));
        store(to + count - kHalf, last);
    } else {
        for (std::size_t i = 0; i < count; ++i) to[i] = room[i];
    }
#endif
}

// The first `width` bytes of each of `kRows` equal parts of a vector, as the first `rows` rows, `pitch` bytes apart.
template <std::size_t kRows>
inline void store_rows(std::uint8_t* to, Bytes x, std::size_t rows, std::size_t pitch, std::size_t width) {
    constexpr std::size_t kColumns = kVectorBytes / kRows;
    if constexpr (kRows == 1) return store_first(to, x, width);
    alignas(kAlignment) std::uint8_t room[kVectorBytes];
    store(room, x);
    for (std::size_t r = 0; r < rows; ++r) {
        store_first(to + r * pitch, load<std::uint8_t, kColumns>(room + r * kColumns), width);
    }
}

#if defined(__AVX512VNNI__)
// Four vectors of bytes, in turns: a lane of a part holds the bytes of one element of all four.
inline Quarters interleave_bytes(Bytes x, Bytes y, Bytes z, Bytes w) {
    const __m512i low_xy = _mm512_unpacklo_epi8((__m512i)x, (__m512i)y);
    const __m512i high_xy = _mm512_unpackhi_epi8((__m512i)x, (__m512i)y);
    const __m512i low_zw = _mm512_unpacklo_epi8((__m512i)z, (__m512i)w);
    const __m512i high_zw = _mm512_unpackhi_epi8((__m512i)z, (__m512i)w);
    return {{(Ints)_mm512_unpacklo_epi16(low_xy, low_zw), (Ints)_mm512_unpackhi_epi16(low_xy, low_zw),
             (Ints)_mm512_unpacklo_epi16(high_xy, high_zw), (Ints)_mm512_unpackhi_epi16(high_xy, high_zw)}};
}

// sum[i] += products of four bytes and four int8, exact.
inline Ints multiply_add_quads(Ints bytes, Ints weights, Ints sum) {
    return (Ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)bytes, (__m512i)weights);
}

// Of each sixteen bytes, the first eight are from elements 8 i to 8 i + 7 of the first half, with even indices before
// odd ones, and the last eight of the second half: puts them in order.
inline Bytes merged_alternating(Bytes x) {
    const __m128i order = _mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
    const __m512i words = _mm512_shuffle_epi8((__m512i)x, _mm512_broadcast_i32x4(order));
    return (Bytes)_mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), words);
}

inline Ints broadcast_quad(const std::int8_t* quad) {
    std::int32_t all;
    __builtin_memcpy(&all, quad, sizeof(all));
    return (Ints)_mm512_set1_epi32(all);
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
