// Computes networks slowly and plainly, from what docs/format.md says: what the engine is compared with.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/testing/network.h"

namespace sterna::testing {

// A value of a network, in row-major order. In integer inference `numbers` are levels times their step.
struct Value {
    std::uint32_t images = 1, channels = 1, height = 1, width = 1;
    bool is_matrix = false;
    std::vector<float> numbers;

    std::size_t at(std::uint32_t n, std::uint32_t c, std::uint32_t y, std::uint32_t x) const {
        return ((std::size_t{n} * channels + c) * height + y) * width + x;
    }
    std::size_t size() const { return std::size_t{images} * channels * height * width; }
};

// All values for one input. Where a value is empty it is fused into another one. With `is_integer` every number is the
// one that the engine must compute, bit for bit; without, sums are made in float64.
std::vector<Value> compute(const Network& network, const std::vector<Value>& inputs, bool is_integer);

}  // namespace sterna::testing
