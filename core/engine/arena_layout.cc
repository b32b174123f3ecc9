#include "core/engine/arena_layout.h"

#include <algorithm>

namespace sterna {
namespace {

void find_lifetimes(const std::vector<Step>& steps, std::vector<Place>& places) {
    for (std::uint32_t i = 0; i < steps.size(); ++i) {
        for (const std::uint32_t number : {steps[i].input, steps[i].second, steps[i].residual, steps[i].output}) {
            if (number == kNothing) continue;
            places[number].first_step = std::min(places[number].first_step, i);
            places[number].last_step = std::max(places[number].last_step, i);
        }
    }
}

}  // namespace

// First fit, the largest first.
std::size_t lay_out(const std::vector<Step>& steps, std::vector<Place>& places) {
    find_lifetimes(steps, places);
    std::vector<std::uint32_t> order;
    for (std::uint32_t i = 0; i < places.size(); ++i) {
        if (places[i].first_step != kNothing) order.push_back(i);
    }
    std::sort(order.begin(), order.end(), [&places](std::uint32_t a, std::uint32_t b) {
        return places[a].bytes != places[b].bytes ? places[a].bytes > places[b].bytes : a < b;
    });
    std::size_t arena_bytes = 0;
    std::vector<std::uint32_t> placed;  // by offset
    for (const std::uint32_t number : order) {
        Place& place = places[number];
        std::size_t offset = 0;
        for (const std::uint32_t other_number : placed) {
            const Place& other = places[other_number];
            if (other.last_step < place.first_step || place.last_step < other.first_step) continue;
            if (offset + place.bytes <= other.offset) break;
            offset = std::max(offset, other.offset + other.bytes);
        }
        place.offset = offset;
        arena_bytes = std::max(arena_bytes, offset + place.bytes);
        const auto behind = std::upper_bound(
            placed.begin(), placed.end(), number,
            [&places](std::uint32_t a, std::uint32_t b) { return places[a].offset < places[b].offset; });
        placed.insert(behind, number);
    }
    return arena_bytes;
}

}  // namespace sterna
