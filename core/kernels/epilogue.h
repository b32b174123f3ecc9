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
    return a < b ? a : b;
}
inline Floats larger(Floats a, Floats b) {
    return a > b ? a : b;
}

// e^x to 2 ulp, by e^x = 2^k e^r with |r| <= ln(2) / 2 and the series of e^r; x is clamped to [-87, 88].
inline Floats exponential(Floats x) {
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

inline void store_levels(std::uint8_t* to, Floats y, const Levels& levels) {
    const Floats none{};
    const Floats level = smaller(larger(y * levels.inverse_step, none + levels.lowest), none + levels.highest);
    store_rounded(to, level, levels.zero);
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
inline Floats load_levels_up_to(const std::uint8_t* from, const Levels& levels, std::size_t count) {
    return to_floats(load_ints_up_to(from, count) - std::int32_t{levels.zero});
}

inline Ints load_mask_up_to(const std::int8_t* from, std::size_t count) {
    if (count == kFloatLanes) return load_mask(from);
    std::int8_t room[kFloatLanes] = {};
    for (std::size_t i = 0; i < count; ++i) room[i] = from[i];
    return load_mask(room);
}

inline void store_up_to(float* to, Floats y, std::size_t count) {
    if (count == kFloatLanes) return store(to, y);
    float room[kFloatLanes];
    store(room, y);
    for (std::size_t i = 0; i < count; ++i) to[i] = room[i];
}

inline void store_levels_up_to(std::uint8_t* to, Floats y, const Levels& levels, std::size_t count) {
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
    for_vectors(count, [&](std::size_t i, std::size_t lanes) {
        store_up_to(room + i, load_levels_up_to(q + i, planes.levels, lanes) * planes.levels.step, lanes);
    });
    return room;
}

inline void from_floats(const Planes& planes, std::size_t at, const float* y, std::size_t count) {
    if (planes.element == Element::kFloat32) {
        __builtin_memcpy(static_cast<float*>(planes.origin) + at, y, count * sizeof(float));
        return;
    }
    std::uint8_t* const q = static_cast<std::uint8_t*>(planes.origin) + at;
    for_vectors(count, [&](std::size_t i, std::size_t lanes) {
        store_levels_up_to(q + i, load_floats_up_to(y + i, lanes), planes.levels, lanes);
    });
}

// As from_floats, with zeros where no pixel is.
inline void pixels_from_floats(const Planes& planes, std::size_t at, const std::int8_t* is_pixel, float* y,
                               std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) y[i] = is_pixel[i] != 0 ? y[i] : 0.0f;
    from_floats(planes, at, y, count);
}

// `Count` sums of filter `channel`, of elements from `flat` on; `excess` of each is too much.
template <std::size_t Count, class Sum, Activation kActivation, class Residual, class Output>
inline void finish_as(const Sum* sums, std::int32_t excess, const Epilogue& epilogue, std::uint32_t channel,
                      std::size_t flat, const Planes& output) {
    const Floats none{};
    const Floats scale = none + epilogue.scale[channel], shift = none + epilogue.shift[channel];
    Output* const to = static_cast<Output*>(output.origin) + channel * output.plane_stride + flat;
    const Residual* residual = nullptr;
    Levels levels;
    if (epilogue.residual != nullptr) {
        residual = static_cast<const Residual*>(epilogue.residual->origin) + channel * epilogue.residual->plane_stride +
                   flat;
        levels = epilogue.residual->levels;
    }
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
                y = y + load_levels_up_to(residual + i, levels, lanes) * levels.step;
            }
        }
        y = activated(y, kActivation == Activation::kNone ? epilogue.activation : kActivation);
        y = (Floats)((Ints)y & load_mask_up_to(epilogue.is_pixel + flat + i, lanes));
        if constexpr (std::is_same_v<Output, float>) {
            store_up_to(to + i, y, lanes);
        } else {
            store_levels_up_to(to + i, y, output.levels, lanes);
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

}  // namespace
}  // namespace sterna::STERNA_ISA
