// The instruction sets for which the kernels are compiled, and the choice among them when a program runs.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sterna {

// In each architecture from the least to the most able.
enum class Isa : std::uint8_t { kScalar, kAvx2, kAvx512, kAmx, kNeon, kWasm };
inline constexpr std::size_t kNumIsas = 6;

const char* name(Isa isa);

// Whether the kernels were compiled for it and this processor runs it; of AMX also whether this process may use it.
bool is_available(Isa isa);

// The most able one of this processor.
Isa best_isa();

}  // namespace sterna
