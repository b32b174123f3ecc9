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

// Adds to `sums`, or begins them.
template <std::size_t Vectors, std::size_t... I>
inline void sum_floats(const float* input, const std::int32_t* offsets, const Chunk& chunk, bool is_first, Floats* sums,
                       std::index_sequence<I...>) {
    Floats total[Vectors] = {((void)I, Floats{})...};
    if (!is_first) ((total[I] = sums[I]), ...);
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
    ((sums[I] = total[I]), ...);
}

// The sums of the first bytes of pairs of vector i become number 2 i, those of the second ones number 2 i + 1; less
// `excess`, where that leaves what fits 16 bits.
template <std::size_t Vectors, std::size_t... I>
inline void sum_pairs(const std::uint8_t* input, const std::int32_t* offsets, const Chunk& chunk, std::int32_t excess,
                      Shorts* sums, std::index_sequence<I...>) {
    using Pairs = Vector<std::uint16_t, kVectorBytes>;
    const Pairs less_high = Pairs{} - static_cast<std::uint16_t>(excess);
    const Pairs less_both = less_high + (less_high << 8);
    Pairs both[Vectors] = {((void)I, less_both)...};
    Pairs high[Vectors] = {((void)I, less_high)...};
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
    ((sums[2 * I] = (Shorts)(both[I] - (high[I] << 8)), sums[2 * I + 1] = (Shorts)high[I]), ...);
}

template <class T>
using SparseSum = std::conditional_t<std::is_same_v<T, float>, Floats, Ints>;
// Vectors of 32-bit sums for each vector of elements.
template <class T>
inline constexpr std::size_t kSumsPerVector = sizeof(std::int32_t) / sizeof(T);
// Sums of filters that wait for further blocks of channels.
inline constexpr std::size_t kWaitingBytes = 32768;

// The inputs of one block of channels for a tile of a filter; the last block finishes it.
template <class T, std::size_t Vectors>
inline void sparse_tile(const SparseConv& conv, std::uint32_t block, std::uint32_t filter, std::size_t flat,
                        SparseSum<T>* sums) {
    constexpr auto kIndices = std::make_index_sequence<Vectors>{};
    const T* const input = static_cast<const T*>(conv.input) + flat;
    const std::size_t list = std::size_t{block} * conv.filters + filter;
    const std::int32_t* offsets = conv.offsets + conv.offset_begin[list];
    const Chunk* chunk = conv.chunks + conv.chunk_begin[list];
    const Chunk* const end = conv.chunks + conv.chunk_begin[list + 1];
    const bool is_last = block + 1 == conv.blocks;
    if constexpr (std::is_same_v<T, float>) {
        sum_floats<Vectors>(input, offsets, *chunk, block == 0, sums, kIndices);
        if (is_last) {
            alignas(kAlignment) float numbers[Vectors * kFloatLanes];
            __builtin_memcpy(numbers, sums, sizeof(numbers));
            finish<Vectors * kFloatLanes>(numbers, 0, conv.epilogue, filter, flat, conv.output);
        }
    } else {
        const std::int32_t excess = conv.excess[filter];
        Shorts pairs[2 * Vectors];
        bool is_first = block == 0;
        if (is_first && is_last && chunk + 1 == end) {
            // Of bytes less 128 as many sums fit 16 bits as of bytes.
            sum_pairs<Vectors>(input, offsets, *chunk, excess, pairs, kIndices);
            finish_tile_of<Layout::kTransposed, Vectors>(PairSums{pairs}, 0, conv.epilogue, filter, flat, conv.output);
            return;
        }
        for (; chunk != end; ++chunk) {
            sum_pairs<Vectors>(input, offsets, *chunk, 0, pairs, kIndices);
            for (std::size_t v = 0; v < Vectors; ++v) {
                const Quarters wide = widen_pair_sums(pairs[2 * v], pairs[2 * v + 1]);
                for (std::size_t p = 0; p < 4; ++p) {
                    sums[4 * v + p] = is_first ? wide.part[p] : sums[4 * v + p] + wide.part[p];
                }
            }
            is_first = false;
            offsets += chunk->added + chunk->subtracted;
        }
        if (is_last) finish_tile<Layout::kTransposed, Vectors>(sums, excess, conv.epilogue, filter, flat, conv.output);
    }
}

// Tiles from `flat` to `end` of a filter whose bytes are one chunk and become levels: what follows the sums has a price
// for each time that it begins, so it is done for several tiles at once.
inline constexpr std::size_t kFinishedBytes = 512;
template <std::size_t Vectors>
inline void sparse_run(const SparseConv& conv, std::uint32_t filter, std::size_t flat, std::size_t end) {
    constexpr std::size_t kTile = Vectors * kVectorBytes, kTiles = kFinishedBytes / kTile;
    const std::uint8_t* const input = static_cast<const std::uint8_t*>(conv.input);
    const std::int32_t* const offsets = conv.offsets + conv.offset_begin[filter];
    const Chunk& chunk = conv.chunks[conv.chunk_begin[filter]];
    Shorts pairs[kTiles][2 * Vectors];
    while (flat < end) {
        std::size_t tiles = 0;
        for (std::size_t at = flat; tiles < kTiles && at < end; ++tiles, at += kTile) {
            sum_pairs<Vectors>(input + at, offsets, chunk, conv.excess[filter], pairs[tiles],
                               std::make_index_sequence<Vectors>{});
        }
        finish_levels<Layout::kTransposed>(PairSums{pairs[0]}, tiles * Vectors, 0, conv.epilogue, filter, flat,
                                           conv.output);
        flat += tiles * kTile;
    }
}

// Tiles of `Vectors` vectors while they fit, then of half as many. Where the inputs of all channels would not stay in
// the cache, blocks of them are summed one after the other for as many filters as may wait.
template <class T, std::size_t Vectors>
void sparse_tiles(const SparseConv& conv, std::uint32_t first, std::uint32_t last, std::size_t flat) {
    constexpr std::size_t kLanes = kVectorBytes / sizeof(T);
    constexpr std::size_t kSums = Vectors * kSumsPerVector<T>;
    constexpr std::uint32_t kWaiting = kWaitingBytes / (kSums * kVectorBytes);
    SparseSum<T> sums[kWaiting * kSums];
    const std::size_t span = (conv.output.span() + kLanes - 1) / kLanes * kLanes;
    constexpr std::size_t kTile = Vectors * kLanes;
    if (conv.blocks == 1) {
        // What few channels bring for several tiles stays in the cache too, and longer runs are stored faster.
        const std::size_t run =
            conv.run_bytes / (Vectors * kVectorBytes) > 1 ? conv.run_bytes / (Vectors * kVectorBytes) * kTile : kTile;
        while (flat + kTile <= span) {
            const std::size_t left = (span - flat) / kTile * kTile;
            const std::size_t end = flat + (left < run ? left : run);
            for (std::uint32_t filter = first; filter < last; ++filter) {
                if constexpr (!std::is_same_v<T, float>) {
                    const bool is_one = conv.chunk_begin[filter + 1] == conv.chunk_begin[filter] + 1;
                    if (is_one && conv.output.element == Element::kUint8) {
                        sparse_run<Vectors>(conv, filter, flat, end);
                        continue;
                    }
                }
                for (std::size_t at = flat; at < end; at += kTile) {
                    sparse_tile<T, Vectors>(conv, 0, filter, at, sums);
                }
            }
            flat = end;
        }
    } else {
        for (; flat + kTile <= span; flat += kTile) {
            for (std::uint32_t begin = first; begin < last; begin += kWaiting) {
                const std::uint32_t end = last - begin < kWaiting ? last : begin + kWaiting;
                for (std::uint32_t block = 0; block < conv.blocks; ++block) {
                    for (std::uint32_t filter = begin; filter < end; ++filter) {
                        sparse_tile<T, Vectors>(conv, block, filter, flat, sums + (filter - begin) * kSums);
                    }
                }
            }
        }
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
// Taken where nothing is measured: of WebAssembly, whose engines spill what does not fit sixteen registers, the most
// vectors whose sums and elements do: seven of floats, and four of bytes with two sums each.
#if defined(__wasm_simd128__)
inline constexpr std::uint32_t kUntunedFormFloat32 = 3;
#else
inline constexpr std::uint32_t kUntunedFormFloat32 = 0;
#endif

}  // namespace
}  // namespace sterna::STERNA_ISA
