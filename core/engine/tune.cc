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
    const std::uint32_t filters_per_unit = step.kind == StepKind::kDense    ? kFiltersPerBlock
                                           : step.kind == StepKind::kMatrix ? kMatrixFilters
                                           : step.kind == StepKind::kFast   ? kFastFilters
                                                                            : 1;
    // Weights that are read once count with the time that they take from memory, and inputs that are taken once for all
    // filters with the time for that: all of them.
    const bool is_whole = step.kind == StepKind::kGather || step.kind == StepKind::kPackedDot ||
                          step.kind == StepKind::kMatrix || step.kind == StepKind::kFast;
    const std::uint32_t units = is_whole ? step.units : std::min(step.units, kFilters / filters_per_unit);
    double best = 1e9, total = 0.0;
    for (int run = 0; run < kRuns && total < kEnoughSeconds; ++run) {
        const auto start = std::chrono::steady_clock::now();
        run_step(step, arena.base, arena.scratch.data(), 0, units);
        const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        // The first run also waits for memory.
        if (run > 0 || seconds > kEnoughSeconds) best = std::min(best, seconds);
        total += seconds;
    }
    const auto filters = static_cast<std::uint32_t>(step.conv.scale.size());
    return best / std::min(units * filters_per_unit, filters);
}

bool Plan::tune(std::vector<Alternative> alternatives) {
    const std::unique_ptr<Arena> arena = take_arena(1);
    if (arena == nullptr) return false;
    // Layers of one shape and density, and with the same alternatives, behave alike.
    using Kind = std::tuple<Element, std::uint32_t, std::size_t, std::uint32_t, std::size_t, std::vector<std::size_t>>;
    struct Choice {
        std::uint32_t form = 0;
        std::size_t alternative = 0;  // counted from 1, or 0 for the step itself
    };
    std::map<Kind, Choice> known;
    std::size_t next = 0;
    for (std::size_t i = 0; i < steps_.size(); ++i) {
        Step& step = steps_[i];
        const std::size_t first = next;
        std::vector<std::size_t> sorts;
        for (; next < alternatives.size() && alternatives[next].step == i; ++next) {
            const Step& other = alternatives[next].other;
            sorts.push_back(static_cast<std::size_t>(other.kind));
            sorts.push_back(std::max(other.conv.taps.size(), other.conv.matrix_steps.size()));
        }
        const bool is_sparse = step.kind == StepKind::kSparse;
        if (!is_sparse && first == next) continue;
        Kind kind;
        if (is_sparse) {
            const std::size_t entries = step.conv.offsets.size() / step.units;
            kind = {places_[step.input].element,
                    places_[step.output].geometry,
                    step.conv.group_stride,
                    step.units,
                    entries / 16,
                    std::move(sorts)};
        }
        const auto found = is_sparse ? known.find(kind) : known.end();
        Choice choice;
        if (found != known.end()) {
            choice = found->second;
            step.form = choice.form;
        } else {
            double best = 1e9;
            for (std::uint32_t form = 0; form < (is_sparse ? kernels_->sparse_form_count : 1); ++form) {
                step.form = form;
                const double seconds = measure(step, *arena);
                if (seconds >= best) continue;
                best = seconds;
                choice.form = form;
            }
            step.form = choice.form;
            for (std::size_t other = first; other < next; ++other) {
                const double seconds = measure(alternatives[other].other, *arena);
                if (seconds >= best) continue;
                best = seconds;
                choice.alternative = other - first + 1;
            }
            if (is_sparse) known[kind] = choice;
        }
        if (choice.alternative != 0) step = std::move(alternatives[first + choice.alternative - 1].other);
    }
    return true;
}

}  // namespace sterna
