#include "core/engine/levels.h"

#include <algorithm>

namespace sterna {
namespace {

constexpr float kSmallestStep = 1e-36f;

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

}  // namespace sterna
