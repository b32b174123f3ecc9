// Where the values of a plan lie in its arena: those that are never needed at the same time share memory.
#pragma once

#include <cstddef>
#include <vector>

#include "core/engine/plan.h"

namespace sterna {

// Sets the steps between which each place is needed, and its offset; returns the bytes of the arena.
std::size_t lay_out(const std::vector<Step>& steps, std::vector<Place>& places);

}  // namespace sterna
