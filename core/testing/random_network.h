// Networks of awkward shapes, made from a seed.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "core/testing/network.h"
#include "core/testing/reference.h"

namespace sterna::testing {

class Random {
  public:
    explicit Random(std::uint64_t seed) : engine_(seed) {}

    // From `low` to `high`, both included.
    std::uint32_t between(std::uint32_t low, std::uint32_t high) {
        return low + static_cast<std::uint32_t>(engine_() % (std::uint64_t{high} - low + 1));
    }
    bool one_in(std::uint32_t count) { return between(1, count) == 1; }
    // From -1 to 1.
    float real() { return static_cast<float>(static_cast<double>(engine_() >> 11) * 0x1p-52 - 1.0); }

  private:
    std::mt19937_64 engine_;
};

struct Case {
    Network network;
    std::vector<Value> inputs;
};

// One convolution, now and then a transposed one, with everything that the engine computes together with it.
Case random_convolution(Random& random);

// The same with more channels and filters.
Case wide_convolution(Random& random);

// A depthwise convolution, mostly with a stride, of rows that may be long.
Case depthwise_convolution(Random& random);

// One with few channels, whose weights are numbers, and mostly few zeros among them.
Case dense_convolution(Random& random);

// Sums as large as they get: the same sign everywhere and the largest levels.
Case extreme_convolution(Random& random);

// Some nodes of any operator.
Case random_graph(Random& random);

}  // namespace sterna::testing
