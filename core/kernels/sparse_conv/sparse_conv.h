// Sparse ternary convolution: sums and differences of shifted planes, without a multiplication (docs/architecture.md).
//
// A tile is a run of a plane that fits the registers. For each tile and filter, the inputs of the filter's positive
// weights are added and those of its negative ones subtracted, each at one offset from the tile.
//
// Bytes are summed in pairs: a 16-bit lane x holds two of them, x = low + 256 high. Sums of x and of x >> 8, both
// modulo 2^16, give the sums of the high and of the low bytes; a plan takes so few terms at a time that those fit 16
// bits. So a load brings twice as many elements as with int16, and loads are what the kernel waits for.
#pragma once

#include "core/kernels/image_ops/rows.h"

namespace sterna::STERNA_ISA {
namespace {

template <std::size_t Vectors, std::size_t... I>
inline void sum_chunk(const float* input, const std::int32_t* offsets, const Chunk& chunk, float* sums,
                      std::index_sequence<I...>) {
    Floats total[Vectors] = {((void)I, Floats{})...};
    const std::int32_t* const added = offsets + chunk.added;
    for (; offsets != added; ++offsets) {
        const float* const at = input + *offsets;
        ((total[I] += load<float, kVectorBytes>(at + I * kFloatLanes)), ...);
    }
    const std::int32_t* const subtracted = offsets + chunk.subtracted;
    for (; offsets != subtracted; ++offsets) {
        const float* const at = input + *offsets;
        ((total[I] -= load<float, kVectorBytes>(at + I * kFloatLanes)), ...);
    }
    (store(sums + I * kFloatLanes, total[I]), ...);
}

template <std::size_t Vectors, std::size_t... I>
inline void sum_chunk(const std::uint8_t* input, const std::int32_t* offsets, const Chunk& chunk, std::int16_t* sums,
                      std::index_sequence<I...>) {
    using Pairs = Vector<std::uint16_t, kVectorBytes>;
    Pairs both[Vectors] = {((void)I, Pairs{})...};
    Pairs high[Vectors] = {((void)I, Pairs{})...};
    const std::int32_t* const added = offsets + chunk.added;
    for (; offsets != added; ++offsets) {
        const std::uint8_t* const at = input + *offsets;
        const Pairs x[Vectors] = {load_pairs(at + I * kVectorBytes)...};
        ((both[I] += x[I]), ...);
        ((high[I] += x[I] >> 8), ...);
    }
    const std::int32_t* const subtracted = offsets + chunk.subtracted;
    for (; offsets != subtracted; ++offsets) {
        const std::uint8_t* const at = input + *offsets;
        const Pairs x[Vectors] = {load_pairs(at + I * kVectorBytes)...};
        ((both[I] -= x[I]), ...);
        ((high[I] -= x[I] >> 8), ...);
    }
    (store_pair_sums(sums + I * kVectorBytes, both[I] - (high[I] << 8), high[I]), ...);
}

template <class T, std::size_t Vectors>
inline void sparse_tile(const SparseConv& conv, std::uint32_t filter, std::size_t flat) {
    using Sum = std::conditional_t<std::is_same_v<T, float>, float, std::int16_t>;
    using Wide = std::conditional_t<std::is_same_v<T, float>, float, std::int32_t>;
    constexpr std::size_t kCount = Vectors * kVectorBytes / sizeof(T);
    constexpr auto kIndices = std::make_index_sequence<Vectors>{};
    alignas(kAlignment) Sum sums[kCount];
    const T* const input = static_cast<const T*>(conv.input) + flat;
    const std::int32_t* offsets = conv.offsets + conv.offset_begin[filter];
    const Chunk* chunk = conv.chunks + conv.chunk_begin[filter];
    const Chunk* const end = conv.chunks + conv.chunk_begin[filter + 1];
    const std::int32_t excess = conv.excess[filter];
    sum_chunk<Vectors>(input, offsets, *chunk, sums, kIndices);
    if (chunk + 1 == end) {
        finish<kCount>(sums, excess, conv.epilogue, filter, flat, conv.output);
        return;
    }
    alignas(kAlignment) Wide wide[kCount];
    for (std::size_t i = 0; i < kCount; ++i) wide[i] = sums[i];
    while (++chunk != end) {
        offsets += chunk[-1].added + chunk[-1].subtracted;
        sum_chunk<Vectors>(input, offsets, *chunk, sums, kIndices);
        for (std::size_t i = 0; i < kCount; ++i) wide[i] += sums[i];
    }
    finish<kCount>(wide, excess, conv.epilogue, filter, flat, conv.output);
}

// Tiles of `Vectors` vectors while they fit, then of half as many.
template <class T, std::size_t Vectors>
void sparse_tiles(const SparseConv& conv, std::uint32_t first, std::uint32_t last, std::size_t flat) {
    constexpr std::size_t kLanes = kVectorBytes / sizeof(T);
    const std::size_t span = (conv.output.span() + kLanes - 1) / kLanes * kLanes;
    for (; flat + Vectors * kLanes <= span; flat += Vectors * kLanes) {
        for (std::uint32_t filter = first; filter < last; ++filter) sparse_tile<T, Vectors>(conv, filter, flat);
    }
    if constexpr (Vectors > 1) {
        if (flat < span) sparse_tiles<T, Vectors / 2>(conv, first, last, flat);
    }
}

template <class T, std::size_t Vectors>
void sparse_conv(const SparseConv& conv, std::uint32_t first, std::uint32_t last) {
    sparse_tiles<T, Vectors>(conv, first, last, 0);
    clear_gaps(conv.output, first, last);
}

// For planes of few elements: one at a time, in parts that do not wait for each other.
template <class T, class Sum>
inline Sum gather(const T* input, const std::int32_t* offsets, std::uint32_t count) {
    Sum parts[4] = {};
    std::uint32_t i = 0;
    for (; i + 4 <= count; i += 4) {
        parts[0] += input[offsets[i]];
        parts[1] += input[offsets[i + 1]];
        parts[2] += input[offsets[i + 2]];
        parts[3] += input[offsets[i + 3]];
    }
    for (; i < count; ++i) parts[0] += input[offsets[i]];
    return (parts[0] + parts[1]) + (parts[2] + parts[3]);
}

template <class T, class Sum>
void gather_elements(const SparseConv& conv, std::uint32_t first, std::uint32_t last) {
    const std::size_t span = conv.output.span();
    for (std::uint32_t filter = first; filter < last; ++filter) {
        for (std::size_t flat = 0; flat < span; ++flat) {
            const T* const input = static_cast<const T*>(conv.input) + flat;
            const std::int32_t* offsets = conv.offsets + conv.offset_begin[filter];
            Sum total{};
            for (std::uint32_t c = conv.chunk_begin[filter]; c < conv.chunk_begin[filter + 1]; ++c) {
                total += gather<T, Sum>(input, offsets, conv.chunks[c].added);
                offsets += conv.chunks[c].added;
                total -= gather<T, Sum>(input, offsets, conv.chunks[c].subtracted);
                offsets += conv.chunks[c].subtracted;
            }
            finish<1>(&total, conv.excess[filter], conv.epilogue, filter, flat, conv.output);
        }
    }
}

inline void sparse_gather(const SparseConv& conv, std::uint32_t first, std::uint32_t last) {
    if (conv.element == Element::kFloat32) {
        gather_elements<float, float>(conv, first, last);
    } else {
        gather_elements<std::uint8_t, std::int32_t>(conv, first, last);
    }
    clear_gaps(conv.output, first, last);
}

template <std::size_t Vectors>
constexpr SparseForm sparse_form(const char* form_name) {
    return {form_name, &sparse_conv<float, Vectors>, &sparse_conv<std::uint8_t, Vectors>};
}

constexpr SparseForm kSparseForms[] = {sparse_form<4>("4"), sparse_form<2>("2"), sparse_form<1>("1"),
                                       sparse_form<7>("7"), sparse_form<8>("8")};

}  // namespace
}  // namespace sterna::STERNA_ISA
