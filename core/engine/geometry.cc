#include "core/engine/geometry.h"

#include <algorithm>

namespace sterna {
namespace {

constexpr std::uint32_t kFewImages = 8;
// Planes are multiples of this, so that vectors of bytes may write their ends.
constexpr std::size_t kPlaneElements = kAlignment;
// Elements that a tap may stand for.
constexpr std::size_t kTapElements = 4;
// What vectors of an output read beyond the rows of an input with strides.
constexpr std::size_t kStridedElements = 2 * kAlignment;
// Rows and columns of an image: sums of a row of bytes fit int32.
constexpr std::uint32_t kMaxSide = 1 << 22;

}  // namespace

bool is_few(const Geometry& geometry, std::uint32_t images) {
    return geometry.height == 1 && geometry.width == 1 && geometry.pad_height == 0 && geometry.pad_width == 0 &&
           images < kFewImages;
}

bool size_planes(Geometry& geometry, const ConvReach& direct, const ConvReach& split, std::uint32_t images) {
    // Zeros between rows serve both sides; where a value is split there may be pixels behind the last one.
    geometry.pad_height = std::max({direct.top, direct.bottom, split.top + split.bottom});
    geometry.pad_width = std::max({direct.left, direct.right, split.left + split.right});
    if (geometry.height > kMaxSide || geometry.width > kMaxSide) return false;
    geometry.pitch = std::size_t{geometry.width} + geometry.pad_width;
    // Up to 2^31 rows of 2^31 elements.
    geometry.image_stride = (std::size_t{geometry.height} + geometry.pad_height) * geometry.pitch;
    if (geometry.image_stride > kMaxPlanesElements / images) return false;
    const std::size_t plane = images * geometry.image_stride;
    geometry.plane_stride = is_few(geometry, images) ? plane : round_up(plane, kPlaneElements);
    const std::size_t beyond = kTapElements + (direct.is_strided ? kStridedElements : 0);
    geometry.margin = round_up(geometry.pad_height * geometry.pitch + geometry.pad_width + beyond, kPlaneElements);
    return true;
}

}  // namespace sterna
