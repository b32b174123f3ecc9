// The dot products of 16-bit and of 8-bit numbers in WebAssembly, as the inner loop of the first layer uses them: for
// four filters and two vectors of inputs. relaxed_dot.js compiles and times it.
#include <wasm_simd128.h>

#include <cstddef>
#include <cstdint>

namespace {

constexpr std::size_t kFilters = 4, kVectors = 2, kTurns = 64;
constexpr std::size_t kVectorBytes = 16, kWeightBytes = 4;

alignas(kVectorBytes) std::int8_t inputs[kTurns * kVectors * kVectorBytes];
alignas(kVectorBytes) std::int8_t weights[kTurns * kFilters * kWeightBytes];

// Products of all inputs and weights, `runs` times; `dot` adds those of a vector and of a filter's weights to a sum.
template <class Dot>
std::int32_t run(int runs, const Dot& dot) {
    v128_t sums[kFilters * kVectors] = {};
    for (int i = 0; i < runs; ++i) {
        const std::int8_t* x = inputs;
        const std::int8_t* w = weights;
        for (std::size_t turn = 0; turn < kTurns; ++turn) {
            // Pointers as they are: loads then have constant offsets.
            asm("" : "+r"(x), "+r"(w));
#pragma clang loop unroll(full)
            for (std::size_t f = 0; f < kFilters; ++f) {
                const v128_t filter = wasm_v128_load32_splat(w + f * kWeightBytes);
#pragma clang loop unroll(full)
                for (std::size_t v = 0; v < kVectors; ++v) {
                    v128_t& sum = sums[f * kVectors + v];
                    sum = dot(wasm_v128_load(x + v * kVectorBytes), filter, sum);
                }
            }
            x += kVectors * kVectorBytes;
            w += kFilters * kWeightBytes;
        }
    }
    std::int32_t total = 0;
    for (const v128_t sum : sums) total += wasm_i32x4_extract_lane(sum, 0);
    return total;
}

}  // namespace

extern "C" {

__attribute__((export_name("products"))) std::int32_t products(std::int32_t lanes) {
    return static_cast<std::int32_t>(kTurns * kFilters * kVectors) * lanes;
}
__attribute__((export_name("plain"))) std::int32_t plain(int runs) {
    return run(runs, [](v128_t x, v128_t w, v128_t sum) { return wasm_i32x4_add(sum, wasm_i32x4_dot_i16x8(x, w)); });
}
__attribute__((export_name("relaxed"))) std::int32_t relaxed(int runs) {
    return run(runs, wasm_i32x4_relaxed_dot_i8x16_i7x16_add);
}

}  // extern "C"
