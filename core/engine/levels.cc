#include "core/engine/levels.h"

#include <algorithm>
#include <cmath>

namespace sterna {
namespace {

constexpr float kSmallestStep = 1e-36f;
constexpr double kSmallestScale = 1e-30, kLargestLevel = 4e6, kLargestByte = 255.0;

}  // namespace

Levels levels_of(const Range& range) {
    Levels levels;
    const bool is_signed = range.low < 0.0f;
    levels.lowest = is_signed ? -127.0f : 0.0f;
    levels.highest = is_signed ? 127.0f : 255.0f;
    levels.step = (is_signed ? std::max(-range.low, range.high) : range.high) / levels.highest;
    // Nor is there an inverse of the smallest numbers.
    if (!(levels.step > kSmallestStep)) levels.step = 1.0f;
    levels.inverse_step = 1.0f / levels.step;
    levels.zero = is_signed ? 128 : 0;
    return levels;
}

Activation needed_activation(Activation activation, const Place& output) {
    const bool is_positive = output.element == Element::kUint8 && output.levels.zero == 0;
    if (is_positive && activation == Activation::kRelu) return Activation::kNone;
    if (is_positive && activation == Activation::kRelu6 && output.levels.step * output.levels.highest <= 6.0f) {
        return Activation::kNone;
    }
    return activation;
}

bool is_bounded(const ConvData& conv, std::uint64_t weights, const Levels& output, const Levels* residual) {
    // Bytes, less 128 where they stand for numbers of either sign.
    const double most = kLargestByte * static_cast<double>(weights);
    const double added = residual == nullptr ? 0.0 : kLargestByte * residual->step;
    for (std::size_t i = 0; i < conv.scale.size(); ++i) {
        const double scale = std::fabs(conv.scale[i]), shift = std::fabs(conv.shift[i]);
        if (scale < kSmallestScale && scale != 0.0) return false;
        // Not so of what is no number either.
        if (!((most * scale + shift + added) * output.inverse_step < kLargestLevel)) return false;
    }
    return true;
}

}  // namespace sterna
