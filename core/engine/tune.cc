// Chooses among kernels by measurement, on one thread and on planes of zeros: time does not depend on what is computed,
// nor much on how many filters there are.
#include <algorithm>
#include <chrono>
#include <map>
#include <tuple>

#include "core/engine/plan.h"

namespace sterna {
namespace {

constexpr int kRuns = 5;
// Long layers are measured less often, and on some of their filters alone.
constexpr double kEnoughSeconds = 1e-3;
constexpr std::uint32_t kFilters = 32;

}  // namespace

double Plan::measure(const Step& step, Arena& arena) const {
    const std::uint32_t filters_per_unit = step.kind == StepKind::kDense ? kFiltersPerBlock : 1;
    // Weights that are read once count with the time that they take from memory: all of them.
    const bool is_read_once = step.kind == StepKind::kGather || step.kind == StepKind::kPackedDot;
    const std::uint32_t units = is_read_once ? step.units : std::min(step.units, kFilters / filters_per_unit);
    double best = 1e9, total = 0.0;
    for (int run = 0; run < kRuns && total < kEnoughSeconds; ++run) {
        const auto start = std::chrono::steady_clock::now();
        run_step(step, arena.base, arena.scratch.data(), 0, units);
        const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        // The first run also waits for memory.
        if (run > 0 || seconds > kEnoughSeconds) best = std::min(best, seconds);
        total += seconds;
    }
    return best / (units * filters_per_unit);
}

bool Plan::tune(std::vector<Alternative> alternatives) {
    const std::unique_ptr<Arena> arena = take_arena(1);
    if (arena == nullptr) return false;
    // Layers of one shape and density behave alike.
    using Kind = std::tuple<Element, std::uint32_t, std::size_t, std::uint32_t, std::size_t>;
    std::map<Kind, std::uint32_t> known;
    std::size_t next = 0;
    for (std::size_t i = 0; i < steps_.size(); ++i) {
        Step& step = steps_[i];
        const bool has_alternative = next < alternatives.size() && alternatives[next].step == i;
        if (step.kind != StepKind::kSparse) {
            if (!has_alternative) continue;
            Step& other = alternatives[next++].other;
            if (measure(other, *arena) < measure(step, *arena)) step = std::move(other);
            continue;
        }
        const std::size_t entries = step.conv.offsets.size() / step.units;
        const Kind kind = {places_[step.input].element, places_[step.output].geometry, step.conv.group_stride,
                           step.units, entries / 16};
        const auto found = known.find(kind);
        if (found != known.end() && !has_alternative) {
            step.form = found->second;
            continue;
        }
        double best = 1e9;
        std::uint32_t best_form = 0;
        for (std::uint32_t form = 0; form < kernels_->sparse_form_count; ++form) {
            step.form = form;
            const double seconds = measure(step, *arena);
            if (seconds >= best) continue;
            best = seconds;
            best_form = form;
        }
        step.form = best_form;
        known[kind] = best_form;
        if (!has_alternative) continue;
        if (measure(alternatives[next].other, *arena) < best) step = std::move(alternatives[next].other);
        ++next;
    }
    return true;
}

}  // namespace sterna
