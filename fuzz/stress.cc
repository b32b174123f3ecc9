// Drives a fuzz target with inputs of a fixed generator, for machines without clang:
//     TARGET_stress [inputs [seed [file ...]]]
// With files, every second input is one of them with a few bytes changed, cut out or put in.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

#include "fuzz/require.h"

namespace {

using Bytes = std::vector<std::uint8_t>;
using Random = std::mt19937_64;

std::uint8_t any_byte(Random& random) {
    return static_cast<std::uint8_t>(random() & 255);
}

Bytes noise(Random& random) {
    Bytes data(6 + random() % 3000);
    // From all ones through mostly ones to noise, so that both certain and even decisions are coded.
    const std::uint64_t level = random() % 5;
    for (std::uint8_t& byte : data) byte = random() % 4 < level ? any_byte(random) : std::uint8_t{1};
    for (std::size_t i = 0; i < 6; ++i) data[i] = any_byte(random);
    return data;
}

Bytes changed(Bytes data, Random& random) {
    for (std::uint64_t changes = 1 + random() % 4; changes != 0 && !data.empty(); --changes) {
        const auto at = data.begin() + static_cast<std::ptrdiff_t>(random() % data.size());
        switch (random() % 4) {
            case 0:
                data.erase(at);
                break;
            case 1:
                data.insert(at, any_byte(random));
                break;
            case 2:
                *at = static_cast<std::uint8_t>(*at ^ 1u << random() % 8);
                break;
            default:
                *at = any_byte(random);
        }
    }
    return data;
}

}  // namespace

int main(int argc, char** argv) {
    const unsigned long inputs = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 2000;
    const unsigned long seed = argc > 2 ? std::strtoul(argv[2], nullptr, 10) : 1;
    std::vector<Bytes> files;
    for (int i = 3; i < argc; ++i) {
        std::ifstream file(argv[i], std::ios::binary);
        files.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    }
    Random random(seed);
    for (unsigned long i = 0; i < inputs; ++i) {
        const bool from_file = !files.empty() && i % 2 == 0;
        const Bytes data = from_file ? changed(files[random() % files.size()], random) : noise(random);
        LLVMFuzzerTestOneInput(data.data(), data.size());
    }
    std::printf("%lu inputs of seed %lu: good\n", inputs, seed);
    return 0;
}
