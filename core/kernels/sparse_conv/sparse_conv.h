// Sparse ternary convolution: sums and differences of shifted planes, without a multiplication (docs/architecture.md).
//
// A tile is a run of a plane that fits the registers. For each tile and filter, the inputs of the filter's positive weights
// are added and those of its negative ones subtracted, each at one offset from the tile. In int16 the sums wrap, which is
// harmless within a chunk: the plan makes chunks so small that a chunk's total fits.
#pragma once

#include "core/kernels/image_ops/rows.h"

namespace sterna::STERNA_ISA {
namespace {

template <class T, std::size_t Bytes, std::size_t Vectors, std::size_t... I>
inline void sum_chunk(const T* input, const std::int32_t* offsets, const Chunk& chunk, T* sums,
                      std::index_sequence<I...>) {
    using V = Vector<T, Bytes>;
    constexpr std::size_t kLanes = Bytes / sizeof(T);
    V total[Vectors] = {((void)I, V{})...};
    const std::int32_t* const added = offsets + chunk.added;
    for (; offsets != added; ++offsets) {
        const T* const at = input + *offsets;
        ((total[I] += load<T, Bytes>(at + I * kLanes)), ...);
    }
    const std::int32_t* const subtracted = offsets + chunk.subtracted;
    for (; offsets != subtracted; ++offsets) {
        const T* const at = input + *offsets;
        ((total[I] -= load<T, Bytes>(at + I * kLanes)), ...);
    }
    (store(sums + I * kLanes, total[I]), ...);
}

template <class T, std::size_t Bytes, std::size_t Vectors>
inline void sparse_tile(const SparseConv& conv, std::uint32_t filter, std::size_t flat) {
    constexpr std::size_t kCount = Vectors * Bytes / sizeof(T);
    constexpr auto kIndices = std::make_index_sequence<Vectors>{};
    alignas(kAlignment) T sums[kCount];
    const T* const input = static_cast<const T*>(conv.input) + flat;
    const std::int32_t* offsets = conv.offsets + conv.offset_begin[filter];
    const Chunk* chunk = conv.chunks + conv.chunk_begin[filter];
    const Chunk* const end = conv.chunks + conv.chunk_begin[filter + 1];
    sum_chunk<T, Bytes, Vectors>(input, offsets, *chunk, sums, kIndices);
    if (chunk + 1 == end) {
        finish<kCount>(sums, conv.epilogue, filter, flat, conv.output);
        return;
    }
    alignas(kAlignment) std::int32_t wide[kCount];
    for (std::size_t i = 0; i < kCount; ++i) wide[i] = static_cast<std::int32_t>(sums[i]);
    while (++chunk != end) {
        offsets += chunk[-1].added + chunk[-1].subtracted;
        sum_chunk<T, Bytes, Vectors>(input, offsets, *chunk, sums, kIndices);
        for (std::size_t i = 0; i < kCount; ++i) wide[i] += static_cast<std::int32_t>(sums[i]);
    }
    finish<kCount>(wide, conv.epilogue, filter, flat, conv.output);
}

// Tiles of `Vectors` vectors while they fit, then of half as many.
template <class T, std::size_t Bytes, std::size_t Vectors>
void sparse_tiles(const SparseConv& conv, std::uint32_t first, std::uint32_t last, std::size_t flat) {
    constexpr std::size_t kCount = Vectors * Bytes / sizeof(T);
    const std::size_t span = (conv.output.span() + Bytes / sizeof(T) - 1) / (Bytes / sizeof(T)) * (Bytes / sizeof(T));
    for (; flat + kCount <= span; flat += kCount) {
        for (std::uint32_t filter = first; filter < last; ++filter) sparse_tile<T, Bytes, Vectors>(conv, filter, flat);
    }
    if constexpr (Vectors > 1) {
        if (flat < span) sparse_tiles<T, Bytes, Vectors / 2>(conv, first, last, flat);
    }
}

template <class T, std::size_t Bytes, std::size_t Vectors>
void sparse_conv(const SparseConv& conv, std::uint32_t first, std::uint32_t last) {
    clear_tails(conv.output, first, last);
    sparse_tiles<T, Bytes, Vectors>(conv, first, last, 0);
}

// For planes of few elements: one at a time.
template <class T>
void gather_elements(const SparseConv& conv, std::uint32_t first, std::uint32_t last) {
    using Sum = decltype(T{} + T{});  // int for int16
    const std::size_t span = conv.output.span();
    for (std::uint32_t filter = first; filter < last; ++filter) {
        for (std::size_t flat = 0; flat < span; ++flat) {
            const T* const input = static_cast<const T*>(conv.input) + flat;
            const std::int32_t* offsets = conv.offsets + conv.offset_begin[filter];
            Sum total{};
            for (std::uint32_t c = conv.chunk_begin[filter]; c < conv.chunk_begin[filter + 1]; ++c) {
                Sum parts[2] = {};
                for (std::uint32_t i = 0; i < conv.chunks[c].added; ++i) parts[i & 1] += input[*offsets++];
                Sum minus[2] = {};
                for (std::uint32_t i = 0; i < conv.chunks[c].subtracted; ++i) minus[i & 1] += input[*offsets++];
                total += (parts[0] + parts[1]) - (minus[0] + minus[1]);
            }
            finish<1>(&total, conv.epilogue, filter, flat, conv.output);
        }
    }
}

inline void sparse_gather(const SparseConv& conv, std::uint32_t first, std::uint32_t last) {
    clear_tails(conv.output, first, last);
    if (conv.element == Element::kFloat32) {
        gather_elements<float>(conv, first, last);
    } else {
        gather_elements<std::int16_t>(conv, first, last);
    }
}

template <std::size_t Bytes, std::size_t Vectors>
constexpr SparseForm sparse_form(const char* form_name) {
    return {form_name, &sparse_conv<float, Bytes, Vectors>, &sparse_conv<std::int16_t, Bytes, Vectors>};
}

constexpr SparseForm kSparseForms[] = {
    sparse_form<kVectorBytes, 4>("4"),
    sparse_form<kVectorBytes, 2>("2"),
    sparse_form<kVectorBytes, 8>("8"),
    sparse_form<kVectorBytes, 7>("7"),
#if defined(__AVX512F__)
    sparse_form<32, 4>("4x256"),
    sparse_form<32, 2>("2x256"),
    sparse_form<32, 7>("7x256"),
#endif
};

}  // namespace
}  // namespace sterna::STERNA_ISA
