// Lets a program use AMX on a processor that has none: its instructions trap, and are computed by TileRegisters. So the
// kernel for AMX runs as it was compiled.
#pragma once

namespace sterna::testing {

// Handles SIGILL from now on, of every thread. False where that is not possible: it needs Linux on x86-64.
bool trap_tile_instructions();

// From now on, products are right, or as those of a faulty processor.
void spoil_tile_products(bool is_spoilt);

}  // namespace sterna::testing
