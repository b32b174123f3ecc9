// What follows the sums of a filter: scale, shift, residual, activation, levels; the same on every instruction set.
//
// Products and sums are rounded one by one (no fused multiply-add), and exp is computed from them alone, so that levels
// are equal everywhere.
#pragma once

#include <type_traits>

#include "core/kernels/vector.h"

namespace sterna::STERNA_ISA {
namespace {

inline Floats smaller(Floats a, Floats b) {
#if defined(__wasm_simd128__)
    return (Floats)wasm_f32x4_pmin((v128_t)b, (v128_t)a);
#else
    return a < b ? a : b;
#endif
}
inline Floats larger(Floats a, Floats b) {
#if defined(__wasm_simd128__)
    return (Floats)wasm_f32x4_pmax((v128_t)b, (v128_t)a);
#else
    return a > b ? a : b;
#endif
}

// e^x to 2 ulp, by e^x = 2^k e^r with |r| <= ln(2) / 2 and the series of e^r; x is clamped to [-87, 88]. Too long to be
// in every loop.
__attribute__((noinline)) Floats exponential(Floats x) {
    const Floats zero{};
    const Floats big = zero + 12582912.0f;  // beyond 2^23 floats have no fraction: adding it rounds
    x = larger(smaller(x, zero + 88.0f), zero - 87.0f);
    const Floats k = (x * 1.44269504f + big) - big;
    const Floats r = (x - k * 0.693359375f) + k * 2.12194440e-4f;
    Floats series = zero + 1.0f / 5040.0f;
    series = series * r + 1.0f / 720.0f;
    series = series * r + 1.0f / 120.0f;
    series = series * r + 1.0f / 24.0f;
    series = series * r + 1.0f / 6.0f;
    series = series * r + 0.5f;
    series = series * r + 1.0f;
    series = series * r + 1.0f;
    const Ints power = (__builtin_convertvector(k, Ints) + 127) << 23;
    return series * (Floats)power;
}

inline Floats activated(Floats y, Activation activation) {
    const Floats zero{};
    switch (activation) {
        case Activation::kNone:
            return y;
        case Activation::kRelu:
            return larger(y, zero);
        case Activation::kRelu6:
            return smaller(larger(y, zero), zero + 6.0f);
        case Activation::kHardswish:
            return y * (smaller(larger(y + 3.0f, zero), zero + 6.0f) * (1.0f / 6.0f));
        case Activation::kHardsigmoid:
            return smaller(larger(y + 3.0f, zero), zero + 6.0f) * (1.0f / 6.0f);
        case Activation::kSilu:
            return y / (1.0f + exponential(-y));
        case Activation::kSigmoid:
            return 1.0f / (1.0f + exponential(-y));
    }
    return y;
}

// The levels of an output, in registers: stores of bytes may change anything that is in memory.
struct LevelVectors {
    explicit LevelVectors(const Levels& levels)
        : inverse_step(Floats{} + levels.inverse_step),
          lowest(Floats{} + levels.lowest),
          highest(Floats{} + levels.highest),
          zero(levels.zero) {}

    Floats inverse_step, lowest, highest;
    std::int32_t zero;
};

inline void store_levels(std::uint8_t* to, Floats y, const LevelVectors& levels) {
    store_rounded(to, smaller(larger(y * levels.inverse_step, levels.lowest), levels.highest), levels.zero);
}

// Calls `work` with the first element and the number of elements for vectors of a run, the last one shorter.
template <class Work>
inline void for_vectors(std::size_t count, const Work& work) {
    std::size_t i = 0;
    for (; i + kFloatLanes <= count; i += kFloatLanes) work(i, kFloatLanes);
    if (i < count) work(i, count - i);
}

// As the functions of vectors, for the first elements alone; the other lanes are 0.
template <class T>
inline Ints load_ints_up_to(const T* from, std::size_t count) {
    if (count == kFloatLanes) return load_ints(from);
    T room[kFloatLanes] = {};
    for (std::size_t i = 0; i < count; ++i) room[i] = from[i];
    return load_ints(room);
}

inline Floats load_floats_up_to(const float* from, std::size_t count) {
    if (count == kFloatLanes) return load<float, kVectorBytes>(from);
    float room[kFloatLanes] = {};
    for (std::size_t i = 0; i < count; ++i) room[i] = from[i];
    return load<float, kVectorBytes>(room);
}

// The levels of bytes.
inline Floats load_levels_up_to(const std::uint8_t* from, std::int32_t zero, std::size_t count) {
    return to_floats(load_ints_up_to(from, count) - zero);
}

inline void store_up_to(float* to, Floats y, std::size_t count) {
    if (count == kFloatLanes) return store(to, y);
    float room[kFloatLanes];
    store(room, y);
    for (std::size_t i = 0; i < count; ++i) to[i] = room[i];
}

inline void store_levels_up_to(std::uint8_t* to, Floats y, const LevelVectors& levels, std::size_t count) {
    if (count == kFloatLanes) return store_levels(to, y, levels);
    std::uint8_t room[kFloatLanes];
    store_levels(room, y, levels);
    for (std::size_t i = 0; i < count; ++i) to[i] = room[i];
}

inline void activate(float* y, std::size_t count, Activation activation) {
    if (activation == Activation::kNone) return;
    for_vectors(count, [&](std::size_t i, std::size_t lanes) {
        store_up_to(y + i, activated(load_floats_up_to(y + i, lanes), activation), lanes);
    });
}

// The real numbers of elements, wherever they are kept.
inline const float* to_floats(const Planes& planes, std::size_t at, std::size_t count, float* room) {
    if (planes.element == Element::kFloat32) return static_cast<const float*>(planes.origin) + at;
    const std::uint8_t* const q = static_cast<const std::uint8_t*>(planes.origin) + at;
    const std::int32_t zero = planes.levels.zero;
    const float step = planes.levels.step;
    for_vectors(count, [&](std::size_t i, std::size_t lanes) {
        store_up_to(room + i, load_levels_up_to(q + i, zero, lanes) * step, lanes);
    });
    return room;
}

inline void from_floats(const Planes& planes, std::size_t at, const float* y, std::size_t count) {
    if (planes.element == Element::kFloat32) {
        __builtin_memcpy(static_cast<float*>(planes.origin) + at, y, count * sizeof(float));
        return;
    }
    std::uint8_t* const q = static_cast<std::uint8_t*>(planes.origin) + at;
    const LevelVectors levels(planes.levels);
    for_vectors(count, [&](std::size_t i, std::size_t lanes) {
        store_levels_up_to(q + i, load_floats_up_to(y + i, lanes), levels, lanes);
    });
}

// How sums of a tile of bytes lie in vectors: as quarters, plain or transposed, in the order of the elements, or in two
// ways to which nothing is added: of each half of the elements two plain parts, or those with even and with odd
// indices.
enum class Layout : std::uint8_t { kPlain, kTransposed, kInOrder, kHalves, kAlternating };

// Vector `v` of sums: of pairs of bytes, or in 32 bits.
struct PairSums {
    const Shorts* sums;
    Quarters operator()(std::size_t v) const { return widen_pair_sums(sums[2 * v], sums[2 * v + 1]); }
    // The first two parts times 2^16, which spares a shift.
    Quarters raised(std::size_t v) const {
        const Ints first = (Ints)sums[2 * v], second = (Ints)sums[2 * v + 1];
        return {{first << 16, second << 16, first >> 16, second >> 16}};
    }
    static constexpr float kRaised = 65536.0f;
};
struct IntSums {
    const Ints* sums;
    Quarters operator()(std::size_t v) const {
        return {{sums[4 * v], sums[4 * v + 1], sums[4 * v + 2], sums[4 * v + 3]}};
    }
    Quarters raised(std::size_t v) const { return (*this)(v); }
    static constexpr float kRaised = 1.0f;
};

template <Layout kLayout>
inline Bytes ordered(Bytes x) {
    // Vectors of 32 bytes would need another order for loads than for stores.
    static_assert(kLayout != Layout::kInOrder || kVectorBytes != 32);
    if constexpr (kLayout == Layout::kTransposed) return transposed(x);
    if constexpr (kLayout == Layout::kInOrder) return transposed_words(x);
    if constexpr (kLayout == Layout::kHalves) return merged_halves(x);
#if defined(__AVX512VNNI__)
    if constexpr (kLayout == Layout::kAlternating) return merged_alternating(x);
#endif
    return x;
}

// Makes levels of the sums of a filter; what that needs is in registers.
template <Layout kLayout, bool kHasResidual, bool kHasActivation, bool kIsBounded>
class LevelMaker {
  public:
    static constexpr bool kAddsResidual = kHasResidual;

    STERNA_INLINE LevelMaker(const Epilogue& epilogue, std::uint32_t channel, const Planes& output)
        : scale_(Floats{} + epilogue.scale[channel]),
          shift_(Floats{} + epilogue.shift[channel]),
          inverse_step_(Floats{} + output.levels.inverse_step),
          highest_(Floats{} + output.levels.highest),
          lowest_(output.levels.lowest),
          zero_(output.levels.zero),
          activation_(epilogue.activation) {
        if constexpr (kHasResidual) {
            const Planes& planes = *epilogue.residual;
            residual_ = static_cast<const std::uint8_t*>(planes.origin) + channel * planes.plane_stride;
            residual_step_ = Floats{} + planes.levels.step;
            residual_zero_ = planes.levels.zero;
        }
    }

    // Vector `v` of sums, of elements from `flat` on; of each `excess` is too much.
    template <class Sums>
    STERNA_INLINE Bytes operator()(const Sums& sums, std::size_t v, std::int32_t excess, std::size_t flat) const {
        Quarters acc = kIsBounded ? sums.raised(v) : sums(v);
        const Floats first_scale = kIsBounded ? scale_ * (1.0f / Sums::kRaised) : scale_;
        if (excess != 0) {
            for (Ints& part : acc.part) part -= excess;
        }
        Floats y[4];
        for (std::size_t p = 0; p < 4; ++p) y[p] = to_floats(acc.part[p]) * (p < 2 ? first_scale : scale_) + shift_;
        if constexpr (kHasResidual) {
            const Quarters x = quarters(ordered<kLayout>(load<std::uint8_t, kVectorBytes>(residual_ + flat)));
            for (std::size_t p = 0; p < 4; ++p) y[p] = y[p] + to_floats(x.part[p] - residual_zero_) * residual_step_;
        }
        if constexpr (kHasActivation) {
            for (Floats& part : y) part = activated(part, activation_);
        }
        for (Floats& part : y) part = part * inverse_step_;
        if constexpr (kIsBounded) {
            return ordered<kLayout>(round_bounded_quarters(y, lowest_, zero_));
        } else {
            // What is no number stays so, and becomes the lowest level.
            for (Floats& part : y) part = smaller(highest_, part);
            return ordered<kLayout>(round_quarters(y, lowest_, zero_));
        }
    }

  private:
    Floats scale_, shift_, inverse_step_, highest_;
    float lowest_;
    std::int32_t zero_;
    Activation activation_;
    const std::uint8_t* residual_ = nullptr;
    Floats residual_step_{};
    std::int32_t residual_zero_ = 0;
};

// Calls `work` with the maker of levels that a filter needs.
template <Layout kLayout, class Work>
STERNA_INLINE void with_level_maker(const Epilogue& epilogue, std::uint32_t channel, const Planes& output,
                                    const Work& work) {
    const bool has_activation = epilogue.activation != Activation::kNone;
    if (kRoundsAnything && epilogue.is_bounded && !has_activation) {
        if (epilogue.residual == nullptr) {
            work(LevelMaker<kLayout, false, false, kRoundsAnything>(epilogue, channel, output));
        } else {
            work(LevelMaker<kLayout, true, false, kRoundsAnything>(epilogue, channel, output));
        }
    } else if (epilogue.residual == nullptr) {
        if (has_activation) {
            work(LevelMaker<kLayout, false, true, false>(epilogue, channel, output));
        } else {
            work(LevelMaker<kLayout, false, false, false>(epilogue, channel, output));
        }
    } else if (has_activation) {
        work(LevelMaker<kLayout, true, true, false>(epilogue, channel, output));
    } else {
        work(LevelMaker<kLayout, true, false, false>(epilogue, channel, output));
    }
}

// Sums of bytes to levels, `vectors` times as many as a vector has bytes.
template <Layout kLayout, class Sums>
inline void finish_levels(const Sums& sums, std::size_t vectors, std::int32_t excess, const Epilogue& epilogue,
                          std::uint32_t channel, std::size_t flat, const Planes& output) {
    with_level_maker<kLayout>(epilogue, channel, output, [&](const auto& make) __attribute__((always_inline)) {
        std::uint8_t* const to = static_cast<std::uint8_t*>(output.origin) + channel * output.plane_stride;
        for (std::size_t v = 0; v < vectors; ++v) {
            const std::size_t at = flat + v * kVectorBytes;
            store(to + at, make(sums, v, excess, at));
        }
    });
}

// `Count` sums of filter `channel`, of elements from `flat` on; `excess` of each is too much.
template <std::size_t Count, class Sum, Activation kActivation, class Residual, class Output>
inline void finish_as(const Sum* sums, std::int32_t excess, const Epilogue& epilogue, std::uint32_t channel,
                      std::size_t flat, const Planes& output) {
    const Floats none{};
    const Floats scale = none + epilogue.scale[channel], shift = none + epilogue.shift[channel];
    Output* const to = static_cast<Output*>(output.origin) + channel * output.plane_stride + flat;
    const Activation activation = epilogue.activation;
    const LevelVectors levels(output.levels);
    const Residual* residual = nullptr;
    Levels residual_levels;
    if (epilogue.residual != nullptr) {
        residual =
            static_cast<const Residual*>(epilogue.residual->origin) + channel * epilogue.residual->plane_stride + flat;
        residual_levels = epilogue.residual->levels;
    }
    const std::int32_t residual_zero = residual_levels.zero;
    const float residual_step = residual_levels.step;
    const auto work = [&](std::size_t i, std::size_t lanes) {
        Floats y;
        if constexpr (std::is_same_v<Sum, float>) {
            y = load_floats_up_to(sums + i, lanes);
        } else {
            y = to_floats(load_ints_up_to(sums + i, lanes) - excess);
        }
        y = y * scale + shift;
        if (residual != nullptr) {
            if constexpr (std::is_same_v<Residual, float>) {
                y = y + load_floats_up_to(residual + i, lanes);
            } else {
                y = y + load_levels_up_to(residual + i, residual_zero, lanes) * residual_step;
            }
        }
        if constexpr (kActivation == Activation::kNone) {
            if (activation != Activation::kNone) y = activated(y, activation);
        } else {
            y = activated(y, kActivation);
        }
        if constexpr (std::is_same_v<Output, float>) {
            store_up_to(to + i, y, lanes);
        } else {
            store_levels_up_to(to + i, y, levels, lanes);
        }
    };
    for (std::size_t i = 0; i + kFloatLanes <= Count; i += kFloatLanes) work(i, kFloatLanes);
    if constexpr (Count % kFloatLanes != 0) work(Count / kFloatLanes * kFloatLanes, Count % kFloatLanes);
}

template <std::size_t Count, class Sum, Activation kActivation>
inline void finish_with(const Sum* sums, std::int32_t excess, const Epilogue& epilogue, std::uint32_t channel,
                        std::size_t flat, const Planes& output) {
    const bool is_float = output.element == Element::kFloat32;
    const bool is_float_residual = epilogue.residual == nullptr || epilogue.residual->element == Element::kFloat32;
    if (is_float && is_float_residual) {
        finish_as<Count, Sum, kActivation, float, float>(sums, excess, epilogue, channel, flat, output);
    } else if (is_float) {
        finish_as<Count, Sum, kActivation, std::uint8_t, float>(sums, excess, epilogue, channel, flat, output);
    } else {
        // Integer inference keeps everything that is added as levels.
        finish_as<Count, Sum, kActivation, std::uint8_t, std::uint8_t>(sums, excess, epilogue, channel, flat, output);
    }
}

template <std::size_t Count, class Sum>
inline void finish(const Sum* sums, std::int32_t excess, const Epilogue& epilogue, std::uint32_t channel,
                   std::size_t flat, const Planes& output) {
    // The most frequent activation has code of its own, without a switch in the loop.
    if (epilogue.activation == Activation::kRelu) {
        finish_with<Count, Sum, Activation::kRelu>(sums, excess, epilogue, channel, flat, output);
    } else {
        finish_with<Count, Sum, Activation::kNone>(sums, excess, epilogue, channel, flat, output);
    }
}

// A tile of bytes: sums in vectors, as they come out of the registers.
template <Layout kLayout, std::size_t Vectors, class Sums>
inline void finish_tile_of(const Sums& sums, std::int32_t excess, const Epilogue& epilogue, std::uint32_t channel,
                           std::size_t flat, const Planes& output) {
    if (output.element == Element::kUint8) {
        finish_levels<kLayout>(sums, Vectors, excess, epilogue, channel, flat, output);
        return;
    }
    // An output of the graph: real numbers, in the order of the elements.
    constexpr std::size_t kCount = Vectors * kVectorBytes;
    alignas(kAlignment) std::int32_t numbers[kCount];
    for (std::size_t v = 0; v < Vectors; ++v) {
        const Quarters acc = sums(v);
        for (std::size_t p = 0; p < 4; ++p) {
            for (std::size_t i = 0; i < kFloatLanes; ++i) {
                const std::size_t at = kLayout == Layout::kTransposed ? 4 * i + p
                                       : kLayout == Layout::kInOrder  ? p * kFloatLanes + i
                                                                      : i / 4 * 16 + 4 * p + i % 4;
                numbers[v * kVectorBytes + at] = acc.part[p][i];
            }
        }
    }
    finish<kCount>(numbers, excess, epilogue, channel, flat, output);
}

template <Layout kLayout, std::size_t Vectors>
inline void finish_tile(const Ints* sums, std::int32_t excess, const Epilogue& epilogue, std::uint32_t channel,
                        std::size_t flat, const Planes& output) {
    finish_tile_of<kLayout, Vectors>(IntSums{sums}, excess, epilogue, channel, flat, output);
}

// The same of as many vectors as there are.
template <Layout kLayout>
inline void finish_vectors(const Ints* sums, std::size_t vectors, std::int32_t excess, const Epilogue& epilogue,
                           std::uint32_t channel, std::size_t flat, const Planes& output) {
    if (output.element == Element::kUint8) {
        finish_levels<kLayout>(IntSums{sums}, vectors, excess, epilogue, channel, flat, output);
        return;
    }
    for (std::size_t v = 0; v < vectors; ++v) {
        finish_tile<kLayout, 1>(sums + v * kVectorBytes / kFloatLanes, excess, epilogue, channel,
                                flat + v * kVectorBytes, output);
    }
}

}  // namespace
}  // namespace sterna::STERNA_ISA
