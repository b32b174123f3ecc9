// Compiled once, for AMX beside AVX-512: the one kernel that this instruction set has more.
#include "core/kernels/matrix_conv/amx.h"

#include "core/kernels/matrix_conv/amx_tiles.h"
#include "core/kernels/matrix_conv/matrix_conv.h"

namespace sterna::amx {

void matrix_conv(const MatrixConv& conv, void* scratch, std::uint32_t first, std::uint32_t last) {
    multiply_matrices<AmxTiles>(conv, static_cast<unsigned char*>(scratch), first, last);
}

bool multiplies_correctly() {
    constexpr std::size_t kSteps = 2;
    const MatrixStep steps[kSteps] = {{0, 0}, {0, 1}};
    // Also of fewer rows than a register has.
    for (const std::uint32_t step_rows : {kMatrixRows, kMatrixRows - 3}) {
        MatrixConv conv;
        conv.rows = step_rows;
        conv.steps = steps;
        conv.step_count = kSteps;
        conv.step_rows = step_rows;
        conv.highest_shift = 1;
        conv.run = kMatrixPair;
        std::uint8_t weights[kSteps * kMatrixFilters * kMatrixRowBytes];
        std::uint8_t inputs[kMatrixRows * kMatrixFour * 2 * kMatrixPair];
        if (conv.rows * conv.row_bytes() > sizeof(inputs)) return false;
        std::uint32_t state = 1;
        const auto next = [&state] { return static_cast<std::uint8_t>((state = state * 1664525 + 1013904223) >> 24); };
        for (std::uint8_t& weight : weights) weight = next();
        for (std::uint8_t& input : inputs) input = next();
        alignas(kAlignment) std::int32_t sums[kMatrixFilters * kMatrixTile] = {};
        {
            const TileConfig config = matrix_config(step_rows);
            AmxTiles tiles(config);
            sum_pair(tiles, conv, weights, inputs, sums);
        }
        const std::size_t width = std::size_t{kMatrixFour} * step_rows;
        for (std::size_t filter = 0; filter < kMatrixFilters; ++filter) {
            for (std::size_t element = 0; element < kMatrixPair; ++element) {
                std::int32_t sum = 0;
                for (std::size_t step = 0; step < kSteps; ++step) {
                    for (std::size_t i = 0; i < width; ++i) {
                        const auto weight =
                            static_cast<std::int8_t>(weights[step * conv.step_bytes() + filter * width + i]);
                        sum += weight * inputs[i / kMatrixFour * conv.row_bytes() + (element + step) * kMatrixFour +
                                               i % kMatrixFour];
                    }
                }
                if (sum != sums[filter * kMatrixTile + element]) return false;
            }
        }
    }
    return true;
}

}  // namespace sterna::amx
