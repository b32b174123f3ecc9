// What fuzz targets share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

// Ends the process where a property does not hold, in every kind of build.
inline void require(bool holds) {
    if (!holds) std::abort();
}
