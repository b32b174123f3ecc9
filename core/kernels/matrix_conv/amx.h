// What is compiled for AMX. To be called where amx_state() permits it.
#pragma once

#include <cstdint>

#include "core/kernels/kernel_types.h"
#include "core/kernels/matrix_conv/tile_config.h"

namespace sterna::amx {

// KernelSet::matrix_conv.
void matrix_conv(const MatrixConv& conv, void* scratch, std::uint32_t first, std::uint32_t last);

// Whether products of random matrices are those of plain loops.
bool multiplies_correctly();

}  // namespace sterna::amx
