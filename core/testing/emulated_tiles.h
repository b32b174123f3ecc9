// Kernels with tile registers for every processor: those are computed.
#pragma once

#include "core/kernels/kernel_set.h"

namespace sterna::testing {

// The portable kernels, and the one of matrices with TileRegisters.
const KernelSet& emulated_tile_kernels();

}  // namespace sterna::testing
