// How the planes of an image size lie in memory (docs/architecture.md, The engine: Planes).
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/engine/conv_plan.h"
#include "core/engine/plan.h"

namespace sterna {

// Elements of the planes of a value: offsets are int32. With it no product of sizes exceeds 64 bits.
inline constexpr std::uint64_t kMaxPlanesElements = 0x7fffffff;

inline std::size_t round_up(std::size_t value, std::size_t unit) {
    return (value + unit - 1) / unit * unit;
}

// Whether a plane has so few elements that they are computed one by one.
bool is_few(const Geometry& geometry, std::uint32_t images);

// Sets all but height and width, from what convolutions read beyond rows and images, of planes as they are and of split
// ones; false if images are too large.
bool size_planes(Geometry& geometry, const ConvReach& direct, const ConvReach& split, std::uint32_t images);

}  // namespace sterna
