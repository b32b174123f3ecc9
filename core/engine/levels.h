// The levels in which values of integer inference are kept (docs/architecture.md, Integer inference).
#pragma once

#include "core/engine/graph.h"
#include "core/engine/plan.h"

namespace sterna {

// The levels that hold a range: 0 to 255, or -127 to 127.
Levels levels_of(const Range& range);

// What is left to do of an activation before numbers become levels: those from 0 on cut off what is below, and at their
// highest one what is above.
Activation needed_activation(Activation activation, const Place& output);

// Whether sums of bytes are as Epilogue::is_bounded says, where the magnitudes of a filter's weights are together at
// most `weights`.
bool is_bounded(const ConvData& conv, std::uint64_t weights, const Levels& output, const Levels* residual);

}  // namespace sterna
