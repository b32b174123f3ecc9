// Compares the engine with plain loops, on every instruction set of the processor that runs it:
//     kernels_test [seed [networks [runs]]]
// Integer inference must give the bits of the reference, whatever the form of a kernel, the instruction set and the
// number of threads; float32 must be as near as rounding allows.
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#if !defined(STERNA_NO_THREADS)
#include <thread>
#endif

#include "core/engine/session.h"
#include "core/engine/thread_pool.h"
#include "core/kernels/isa.h"
#include "core/kernels/kernel_set.h"
#if defined(__x86_64__)
#include "core/kernels/matrix_conv/amx.h"
#endif
#include "core/testing/emulated_tiles.h"
#include "core/testing/network.h"
#include "core/testing/random_network.h"
#include "core/testing/reference.h"
#include "core/testing/tile_traps.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define STERNA_SANITIZED
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define STERNA_SANITIZED
#endif
#endif

#if defined(__GLIBC__) && !defined(STERNA_SANITIZED)
#define STERNA_COUNTS_MEMORY
namespace {
std::atomic<std::uint64_t> taken{0};  // calls that take memory
}
// glibc lets programs replace these; operator new calls malloc.
extern "C" {
void* __libc_malloc(std::size_t size);
void* __libc_calloc(std::size_t count, std::size_t size);
void* __libc_realloc(void* memory, std::size_t size);
void* malloc(std::size_t size) {
    ++taken;
    return __libc_malloc(size);
}
void* calloc(std::size_t count, std::size_t size) {
    ++taken;
    return __libc_calloc(count, size);
}
void* realloc(void* memory, std::size_t size) {
    ++taken;
    return __libc_realloc(memory, size);
}
}
#endif

namespace {

using sterna::ConvMethod;
using sterna::EngineOptions;
using sterna::Isa;
using sterna::Plan;
using sterna::Session;
using sterna::Sizes;
using sterna::testing::Case;
using sterna::testing::Random;
using sterna::testing::Value;

// Of the largest number of a network up to a value: sums in float32 of a few thousand terms.
constexpr float kTolerance = 1e-5f;

int failures = 0;

void fail(const std::string& what) {
    std::printf("FAILED: %s\n", what.c_str());
    ++failures;
}

// Kernels that are tested: those of an instruction set that is available, and those with tile registers in any case.
struct Kernels {
    std::string name;
    Isa isa = Isa::kScalar;
    const sterna::KernelSet* set = nullptr;
    bool has_others = true;  // that are not tested elsewhere
    unsigned long matrix_steps = 0, fast_steps = 0;
};

std::vector<Kernels> available_kernels() {
    std::vector<Kernels> all;
    for (std::size_t i = 0; i < sterna::kNumIsas; ++i) {
        const auto isa = static_cast<Isa>(i);
        if (sterna::is_available(isa)) all.push_back({sterna::name(isa), isa, &sterna::kernels(isa)});
    }
    all.push_back({"emulated tiles", Isa::kScalar, &sterna::testing::emulated_tile_kernels(), false});
    const bool is_trapped = sterna::is_available(Isa::kAvx512) && !sterna::is_available(Isa::kAmx);
    if (is_trapped && sterna::testing::trap_tile_instructions()) {
        all.push_back({"trapped amx", Isa::kAmx, &sterna::kernels(Isa::kAmx), false});
    }
    return all;
}

// A choice of kernels, and whether caches are taken for so small that everything is cut into its smallest pieces.
struct Way {
    ConvMethod method = ConvMethod::kLists;
    bool is_small = false;
    std::uint32_t form = 0;
    bool is_tuned = false;
};

std::vector<Way> ways(const Kernels& kernels) {
    std::vector<Way> all;
    if (kernels.has_others) {
        for (std::uint32_t form = 0; form < kernels.set->sparse_form_count; ++form) {
            all.push_back({ConvMethod::kLists, form % 2 == 1, form});
        }
        all.push_back({ConvMethod::kDense, true});
        if (kernels.set->fast_conv != nullptr) {
            all.push_back({ConvMethod::kFast, false});
            all.push_back({ConvMethod::kFast, true});
        }
    }
    if (kernels.set->matrix_conv != nullptr) {
        all.push_back({ConvMethod::kMatrix, false});
        all.push_back({ConvMethod::kMatrix, true});
    }
    all.push_back({ConvMethod::kLists, false, 0, true});
    return all;
}

std::vector<Sizes> sizes_of(const std::vector<Value>& inputs) {
    std::vector<Sizes> sizes;
    for (const Value& input : inputs) {
        sizes.push_back({input.images, input.channels});
        if (!input.is_matrix) sizes.back().insert(sizes.back().end(), {input.height, input.width});
    }
    return sizes;
}

// A session and the arrays for its runs.
struct Run {
    std::unique_ptr<Session> session;
    std::shared_ptr<const Plan> plan;
    std::vector<const float*> inputs;
    std::vector<std::vector<float>> outputs;
    std::vector<float*> to;
    std::string problem;

    Run(const std::vector<std::uint8_t>& file, const std::vector<Value>& values,
        const std::vector<std::uint32_t>& wanted, const EngineOptions& options, unsigned threads) {
        session = Session::open(file.data(), file.size(), "", {}, wanted, options, threads, problem);
        if (session != nullptr) plan = session->plan(sizes_of(values), problem);
        if (plan == nullptr) return;
        for (const Value& value : values) inputs.push_back(value.numbers.data());
        outputs = make_outputs();
        for (std::vector<float>& output : outputs) to.push_back(output.data());
        problem = session->run(*plan, inputs.data(), to.data());
    }

    std::vector<std::vector<float>> make_outputs() const {
        std::vector<std::vector<float>> made;
        for (const sterna::Shape& shape : plan->outputs()) {
            made.emplace_back(std::size_t{plan->images()} * shape.channels * shape.height * shape.width, -7.0f);
        }
        return made;
    }
};

// The values that a network's steps compute.
std::vector<std::uint32_t> computed_values(const std::vector<std::uint8_t>& file, const Case& one) {
    std::string problem;
    const std::unique_ptr<Session> session = Session::open(file.data(), file.size(), "", {}, {}, {}, 1, problem);
    if (session == nullptr) return {};
    return session->computed_values(sizes_of(one.inputs), problem);
}

std::string describe(const Case& one, std::uint32_t value) {
    std::string text;
    const sterna::Graph& graph = one.network.graph;
    for (const Value& input : one.inputs) {
        text += "input " + std::to_string(input.images) + "x" + std::to_string(input.channels) + "x" +
                std::to_string(input.height) + "x" + std::to_string(input.width) + "; ";
    }
    for (std::size_t i = 0; i < graph.nodes.size(); ++i) {
        const sterna::GraphNode& node = graph.nodes[i];
        text += std::to_string(graph.inputs.size() + i) + " = " + sterna::name(node.op) + "(";
        for (const std::uint32_t input : node.inputs) text += " " + std::to_string(input);
        for (std::size_t t = 0; t < 2 && node.tensors[t] != sterna::kNoTensor; ++t) {
            const sterna::testing::Tensor& tensor = one.network.tensors[node.tensors[t]];
            text += " |kind " + std::to_string(static_cast<int>(tensor.kind)) + ":";
            for (const std::uint32_t axis : tensor.shape) text += " " + std::to_string(axis);
        }
        text += " |";
        for (std::size_t a = 0; a < sterna::testing::attribute_count(node.op); ++a) {
            text += " " + std::to_string(node.attributes[a]);
        }
        text += "); ";
    }
    return text + "at value " + std::to_string(value);
}

// Whether the outputs are those of the reference.
bool is_right(const Run& run, const std::vector<std::uint32_t>& values, const std::vector<Value>& expected,
              bool is_integer, const Case& one, const std::string& how) {
    float largest = 1.0f;
    for (std::size_t i = 0; i < values.size(); ++i) {
        const std::vector<float>& right = expected[values[i]].numbers;
        if (run.outputs[i].size() != right.size()) {
            fail(how + ": another size; " + describe(one, values[i]));
            return false;
        }
        for (const float number : right) largest = std::max(largest, std::fabs(number));
        for (std::size_t k = 0; k < right.size(); ++k) {
            const float got = run.outputs[i][k];
            const bool is_same = std::memcmp(&got, &right[k], sizeof(got)) == 0 || got == right[k];
            if (is_same || (!is_integer && std::fabs(got - right[k]) <= kTolerance * largest)) continue;
            char numbers[100];
            std::snprintf(numbers, sizeof numbers, ": element %zu is %.9g instead of %.9g; ", k,
                          static_cast<double>(got), static_cast<double>(right[k]));
            fail(how + numbers + describe(one, values[i]));
            return false;
        }
    }
    return true;
}

void check_case(const Case& one, const std::string& which, std::vector<Kernels>& all_kernels) {
    const std::vector<std::uint8_t> file = sterna::testing::encode_file(one.network);
    const std::vector<std::uint32_t> values = computed_values(file, one);
    if (values.empty()) {
        Run run(file, one.inputs, {}, {}, 1);
        fail(which + " is refused: " + run.problem + "; " + describe(one, 0));
        return;
    }
    for (const bool is_integer : {false, true}) {
        const std::vector<Value> expected = compute(one.network, one.inputs, is_integer);
        unsigned threads = 0;
        for (Kernels& kernels : all_kernels) {
            if (!is_integer && !kernels.has_others) continue;
            for (const Way& way : ways(kernels)) {
                EngineOptions options;
                options.isa = kernels.isa;
                options.kernels = kernels.set;
                options.int8_activations = is_integer;
                options.is_tuned = way.is_tuned;
                options.sparse_form = way.form;
                options.method = way.method;
                if (way.is_small) options.cache_bytes = options.block_bytes = options.matrix_bytes = 1;
                threads = threads % 3 + 1;
                const std::string how = which + (is_integer ? ", int8, " : ", float32, ") + kernels.name + ", method " +
                                        std::to_string(static_cast<int>(way.method)) + ", form " +
                                        std::to_string(way.form) + (way.is_tuned ? ", tuned" : "") + ", threads " +
                                        std::to_string(threads);
                Run run(file, one.inputs, values, options, threads);
                if (!run.problem.empty()) {
                    fail(how + ": " + run.problem + "; " + describe(one, 0));
                    return;
                }
                for (const sterna::Step& step : run.plan->steps()) {
                    kernels.matrix_steps += step.kind == sterna::StepKind::kMatrix;
                    kernels.fast_steps += step.kind == sterna::StepKind::kFast;
                }
                if (!is_right(run, values, expected, is_integer, one, how)) return;
            }
        }
    }
}

// A network with most kinds of steps, and what it computes.
Case small_network() {
    Random random(7);
    for (;;) {
        Case one = sterna::testing::random_graph(random);
        std::size_t convolutions = 0;
        for (const sterna::GraphNode& node : one.network.graph.nodes)
            convolutions += node.tensors[0] != sterna::kNoTensor;
        if (convolutions >= 3 && one.inputs[0].images > 1 && one.inputs[0].height > 4) return one;
    }
}

void check_errors() {
    const Case one = small_network();
    const std::vector<std::uint8_t> file = sterna::testing::encode_file(one.network);
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity()}) {
        std::vector<Value> inputs = one.inputs;
        inputs[0].numbers.back() = bad;
        for (const bool is_integer : {false, true}) {
            EngineOptions options;
            options.isa = sterna::best_isa();
            options.int8_activations = is_integer;
            Run run(file, inputs, {}, options, 2);
            if (run.problem.find("not finite") == std::string::npos) fail("an input that is not finite is taken");
            // The session serves the next run as if nothing had been.
            inputs[0].numbers.back() = 1.0f;
            run.inputs[0] = inputs[0].numbers.data();
            const std::string problem = run.session->run(*run.plan, run.inputs.data(), run.to.data());
            if (!problem.empty()) fail("a run after a refused one: " + problem);
            inputs[0].numbers.back() = bad;
        }
    }
    std::string problem;
    const std::unique_ptr<Session> session = Session::open(file.data(), file.size(), "", {}, {}, {}, 1, problem);
    const std::vector<Sizes> right = sizes_of(one.inputs);
    std::vector<std::vector<Sizes>> wrong = {{}, {{}}, right, right, right, right, right};
    wrong[2].push_back({1, 1});
    wrong[3][0].pop_back();
    wrong[4][0][0] = 0;
    wrong[5][0][1] += 1;
    wrong[6][0][0] = 0x10001;
    for (std::size_t i = 0; i < wrong.size(); ++i) {
        problem.clear();
        if (session->plan(wrong[i], problem) != nullptr || problem.empty()) {
            fail("wrong sizes " + std::to_string(i) + " are taken");
        }
    }
    for (const std::uint32_t huge : {1u << 16, 1u << 28, 0xffffffffu}) {
        std::vector<Sizes> sizes = right;
        if (sizes[0].size() < 4) continue;
        sizes[0][2] = sizes[0][3] = huge;
        problem.clear();
        if (session->plan(sizes, problem) != nullptr || problem.empty()) fail("a huge image is taken");
    }
    problem.clear();
    if (Session::open(file.data(), file.size(), "no such", {}, {}, {}, 1, problem) != nullptr || problem.empty()) {
        fail("a graph that is not there is taken");
    }
}

// After the first run of a plan no memory is taken.
void check_memory() {
#if defined(STERNA_COUNTS_MEMORY)
    const Case one = small_network();
    const std::vector<std::uint8_t> file = sterna::testing::encode_file(one.network);
    for (const bool is_integer : {false, true}) {
        for (const unsigned threads : {1u, 2u}) {
            EngineOptions options;
            options.isa = sterna::best_isa();
            options.int8_activations = is_integer;
            Run run(file, one.inputs, {}, options, threads);
            const std::uint64_t before = taken.load();
            for (int i = 0; i < 3; ++i) {
                const std::string problem = run.session->run(*run.plan, run.inputs.data(), run.to.data());
                if (!problem.empty()) fail("a second run: " + problem);
            }
            const std::uint64_t calls = taken.load() - before;
            if (calls != 0) fail("three runs took memory " + std::to_string(calls) + " times");
        }
    }
    std::printf("memory: nothing is taken after the first run\n");
#else
    std::printf("memory: not counted in this build\n");
#endif
}

// Products of matrices are tried before they are used: right ones pass, wrong ones do not.
void check_trial() {
#if defined(__x86_64__)
    if (sterna::is_available(Isa::kAmx) || !sterna::is_available(Isa::kAvx512)) return;
    if (!sterna::testing::trap_tile_instructions()) return;
    if (!sterna::amx::multiplies_correctly()) fail("right products of matrices are taken for wrong");
    sterna::testing::spoil_tile_products(true);
    if (sterna::amx::multiplies_correctly()) fail("wrong products of matrices are taken for right");
    sterna::testing::spoil_tile_products(false);
    std::printf("trial of products of matrices: good\n");
#endif
}

// Loops of all lengths, one after another, with more threads than there are cores: each number comes once in each loop,
// and a worker that comes late finds the loop closed.
void check_pool(unsigned long seed, unsigned long loops) {
    using Counts = std::vector<std::uint32_t>;
    Random random(seed);
    for (const unsigned threads : {1u, 2u, 8u}) {
        sterna::ThreadPool pool(threads);
        Counts counts(1000);
        for (unsigned long i = 0; i < loops; ++i) {
            const std::uint32_t count = random.between(1, 1000);
            counts.assign(counts.size(), 0);
            pool.run(
                count, random.between(1, 8),
                [](void* context, unsigned, std::uint32_t first, std::uint32_t last) {
                    for (std::uint32_t k = first; k < last; ++k) ++(*static_cast<Counts*>(context))[k];
                },
                &counts);
            for (std::uint32_t k = 0; k < counts.size(); ++k) {
                if (counts[k] != (k < count ? 1 : 0)) return fail("a loop of " + std::to_string(threads) + " threads");
            }
        }
    }
}

// Four threads share a session; all get what one alone gets.
void check_sharing(unsigned long runs) {
#if defined(STERNA_NO_THREADS)
    std::printf("sharing: there are no threads, %lu runs left out\n", runs);
#else
    constexpr unsigned kCallers = 4;
    const Case one = small_network();
    const std::vector<std::uint8_t> file = sterna::testing::encode_file(one.network);
    for (const unsigned threads : {1u, 2u}) {
        EngineOptions options;
        options.isa = sterna::best_isa();
        options.int8_activations = true;
        const Run first(file, one.inputs, {}, options, threads);
        if (!first.problem.empty()) return fail("the shared session: " + first.problem);
        std::atomic<unsigned> differences{0};
        const auto call = [&] {
            for (unsigned long i = 0; i < runs / kCallers; ++i) {
                std::string problem;
                const std::shared_ptr<const Plan> plan = first.session->plan(sizes_of(one.inputs), problem);
                std::vector<std::vector<float>> outputs = first.make_outputs();
                std::vector<float*> to;
                for (std::vector<float>& output : outputs) to.push_back(output.data());
                problem += first.session->run(*plan, first.inputs.data(), to.data());
                if (!problem.empty() || outputs != first.outputs) ++differences;
            }
        };
        std::vector<std::thread> callers;
        for (unsigned i = 0; i < kCallers; ++i) callers.emplace_back(call);
        for (std::thread& caller : callers) caller.join();
        if (differences != 0) fail(std::to_string(differences.load()) + " runs of a shared session differ");
    }
#endif
}

}  // namespace

int main(int argc, char** argv) {
    const unsigned long seed = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 1;
    const unsigned long networks = argc > 2 ? std::strtoul(argv[2], nullptr, 10) : 40;
    const unsigned long runs = argc > 3 ? std::strtoul(argv[3], nullptr, 10) : 10000;
    std::vector<Kernels> all_kernels = available_kernels();
    std::printf("kernels:");
    for (const Kernels& kernels : all_kernels) std::printf(" %s,", kernels.name.c_str());
    std::printf(" the best are %s\n", sterna::name(sterna::best_isa()));
    for (unsigned long i = 0; i < networks && failures < 10; ++i) {
        const std::string which = "of seed " + std::to_string(seed + i);
        Random random(seed + i);
        check_case(sterna::testing::random_convolution(random), "convolution " + which, all_kernels);
        check_case(sterna::testing::extreme_convolution(random), "extreme convolution " + which, all_kernels);
        check_case(sterna::testing::random_graph(random), "graph " + which, all_kernels);
        check_case(sterna::testing::wide_convolution(random), "wide convolution " + which, all_kernels);
        check_case(sterna::testing::depthwise_convolution(random), "depthwise convolution " + which, all_kernels);
        check_case(sterna::testing::dense_convolution(random), "dense convolution " + which, all_kernels);
    }
    for (const Kernels& kernels : all_kernels) {
        if (kernels.set->fast_conv == nullptr || !kernels.has_others) continue;
        std::printf("%s: %lu layers by fewer products\n", kernels.name.c_str(), kernels.fast_steps);
        if (kernels.fast_steps == 0 && networks != 0) fail("no layer by fewer products with " + kernels.name);
    }
    for (const Kernels& kernels : all_kernels) {
        if (kernels.set->matrix_conv == nullptr) continue;
        std::printf("%s: %lu layers by products of matrices\n", kernels.name.c_str(), kernels.matrix_steps);
        if (kernels.matrix_steps == 0 && networks != 0) fail("no layer by products of matrices with " + kernels.name);
    }
    check_trial();
    check_errors();
    check_memory();
    check_pool(seed, runs / 10);
    check_sharing(runs);
    if (failures != 0) {
        std::printf("%d checks failed\n", failures);
        return EXIT_FAILURE;
    }
    std::printf("%lu networks of each sort from seed %lu, and %lu shared runs: good\n", networks, seed, runs);
    return EXIT_SUCCESS;
}
