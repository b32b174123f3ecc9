#include "core/codec/kernel_shape.h"

namespace sterna {
namespace {

bool multiply(std::uint64_t& product, std::uint64_t factor) {
    if (factor != 0 && product > kMaxWeights / factor) return false;
    product *= factor;
    return true;
}

}  // namespace

Status kernel_shape(const std::uint64_t* shape, std::size_t rank, KernelShape& out) {
    std::uint64_t total = 1;
    for (std::size_t axis = 0; axis < rank; ++axis) {
        if (!multiply(total, shape[axis])) return Status::kTooManyWeights;
    }
    out = KernelShape{};
    if (rank == 1) out.channels = shape[0];
    if (rank >= 2) {
        out.filters = shape[0];
        out.channels = shape[1];
    }
    for (std::size_t axis = 2; axis + 1 < rank; ++axis) {
        // Only a product with a zero axis can leave this range, and such a tensor has no weights to code.
        if (!multiply(out.rows, shape[axis])) return Status::kTooManyWeights;
    }
    if (rank >= 3) out.columns = shape[rank - 1];
    return Status::kOk;
}

}  // namespace sterna
