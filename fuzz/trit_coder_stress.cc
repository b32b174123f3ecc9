// Drives the fuzz target with inputs of a fixed generator, for machines without clang:
//     trit_coder_stress [inputs [seed]]
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

int main(int argc, char** argv) {
    const unsigned long inputs = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 2000;
    const unsigned long seed = argc > 2 ? std::strtoul(argv[2], nullptr, 10) : 1;
    std::mt19937_64 random(seed);
    std::vector<std::uint8_t> data;
    for (unsigned long i = 0; i < inputs; ++i) {
        data.assign(5 + random() % 3000, 0);
        // From all zeros through mostly zeros to noise, so that both certain and even decisions are coded.
        const std::uint64_t noise = random() % 5;
        for (std::uint8_t& byte : data) {
            byte = random() % 4 < noise ? static_cast<std::uint8_t>(random()) : static_cast<std::uint8_t>(1);
        }
        for (std::size_t axis = 0; axis < 5; ++axis) data[axis] = static_cast<std::uint8_t>(random());
        LLVMFuzzerTestOneInput(data.data(), data.size());
    }
    std::printf("%lu inputs of seed %lu: good\n", inputs, seed);
    return 0;
}
