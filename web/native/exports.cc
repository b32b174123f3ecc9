// The engine for JavaScript: one session an instance of the module, so that an instance that is dropped frees all its
// memory. Functions return an Outcome; what there is to say besides is in text and numbers that are read afterwards.
//
// A failed allocation of weights or activations is an outcome like others. Where the standard library needs memory and
// there is none, `out_of_memory` is called: the host throws from it, and uses the instance no more.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/base/buffer.h"
#include "core/container/fault_text.h"
#include "core/engine/loader.h"
#include "core/engine/session.h"
#include "core/kernels/isa.h"

#define STERNA_EXPORT(name) extern "C" __attribute__((export_name(#name))) auto name
#define STERNA_IMPORT(name) __attribute__((import_module("sterna"), import_name(#name)))

extern "C" STERNA_IMPORT(out_of_memory) void out_of_memory(std::size_t bytes);

void* operator new(std::size_t size) {
    void* const memory = std::malloc(size != 0 ? size : 1);
    if (memory == nullptr) out_of_memory(size);
    return memory;
}
void* operator new[](std::size_t size) {
    return operator new(size);
}
void operator delete(void* memory) noexcept {
    std::free(memory);
}
void operator delete[](void* memory) noexcept {
    std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
    std::free(memory);
}
void operator delete[](void* memory, std::size_t) noexcept {
    std::free(memory);
}

// The library's own prints a text first, for which it would need all of formatted output.
_LIBCPP_BEGIN_NAMESPACE_STD
[[noreturn]] void __libcpp_verbose_abort(const char*, ...) noexcept {
    __builtin_trap();
}
_LIBCPP_END_NAMESPACE_STD

namespace {

// Memory for the activations of a run; the whole module may have STERNA_MEMORY_BYTES.
constexpr std::uint64_t kMaxPlanBytes = STERNA_MEMORY_BYTES;
constexpr std::uint64_t kMaxElements = STERNA_MEMORY_BYTES / sizeof(float);  // of an input

enum Outcome : std::int32_t { kDone, kNothingToDo, kProblem, kFault };  // a fault's text begins with its cause
enum Activations : std::int32_t { kFloat32, kInt8, kInt8IfCalibrated };

std::unique_ptr<sterna::SessionLoader> loader;
std::unique_ptr<sterna::Session> session;
std::string text;
std::vector<double> numbers;
bool is_int8 = false;

struct Input {
    sterna::Buffer<float> numbers;
    sterna::Sizes sizes;
};
std::vector<Input> inputs;
std::vector<sterna::Buffer<float>> outputs;
std::shared_ptr<const sterna::Plan> plan;  // of the last run
std::vector<sterna::StepTime> times;

std::int32_t problem(std::string what) {
    text = std::move(what);
    return kProblem;
}

std::int32_t fault(const sterna::Fault& what) {
    text = sterna::to_text(what);
    return kFault;
}

const sterna::Reader& reader() {
    return loader != nullptr ? loader->reader() : session->reader();
}

}  // namespace

// Memory for bytes that the host writes; 0 if there is none.
STERNA_EXPORT(sterna_allocate)(std::size_t bytes)->void* {
    return std::malloc(bytes);
}

STERNA_EXPORT(sterna_free)(void* memory)->void {
    std::free(memory);
}

STERNA_EXPORT(sterna_text)()->const char* {
    return text.data();
}
STERNA_EXPORT(sterna_text_bytes)()->std::size_t {
    return text.size();
}
STERNA_EXPORT(sterna_numbers)()->const double* {
    return numbers.data();
}
STERNA_EXPORT(sterna_number_count)()->std::size_t {
    return numbers.size();
}

// Begins to load a file; `name` is that of the graph, if it is named and not the first one.
STERNA_EXPORT(sterna_begin)(const char* name, std::size_t bytes, std::int32_t is_named)->void {
    sterna::EngineOptions options;
    options.isa = sterna::best_isa();
    // Clocks of browsers are coarse, and what is measured first is code that is not optimised yet.
    options.is_tuned = false;
    options.max_bytes = kMaxPlanBytes;
    std::optional<std::string> graph;
    if (is_named != 0) graph.emplace(name, bytes);
    loader = std::make_unique<sterna::SessionLoader>(std::move(graph), options, 1);
}

// More bytes of the file.
STERNA_EXPORT(sterna_append)(const std::uint8_t* bytes, std::size_t size)->std::int32_t {
    const sterna::Fault found = loader->append(bytes, size);
    return found ? fault(found) : kDone;
}

// Decodes a piece of what has arrived.
STERNA_EXPORT(sterna_decode)()->std::int32_t {
    return loader->decode_next() ? kDone : kNothingToDo;
}

STERNA_EXPORT(sterna_progress)()->double {
    return loader->progress();
}

// The checks of the whole file. Afterwards the text is its metadata; number: how many sections hold them, 0 or 1.
STERNA_EXPORT(sterna_check)()->std::int32_t {
    if (const sterna::Fault found = loader->check()) return fault(found);
    const sterna::Reader& reader = loader->reader();
    text.assign(reinterpret_cast<const char*>(reader.metadata().data()), reader.metadata().size());
    numbers = {0.0};
    for (std::size_t i = 0; i < reader.sections().size(); ++i) {
        numbers[0] += reader.sections()[i].kind == static_cast<std::uint8_t>(sterna::SectionKind::kMetadata);
    }
    return kDone;
}

// The session, and all that has not been decoded yet.
STERNA_EXPORT(sterna_finish)(std::int32_t activations)->std::int32_t {
    std::string what;
    session = loader->finish(what);
    loader.reset();
    if (session == nullptr) return problem(what);
    if (activations == kInt8 && !session->is_calibrated()) {
        return problem("the graph has no ranges for 8-bit activations: it is not calibrated");
    }
    is_int8 = activations == kInt8 || (activations == kInt8IfCalibrated && session->is_calibrated());
    session->use_int8_activations(is_int8);
    inputs.resize(session->graph().inputs.size());
    outputs.resize(session->graph().outputs.size());
    return kDone;
}

STERNA_EXPORT(sterna_is_int8)()->std::int32_t {
    return is_int8 ? 1 : 0;
}

// After the check. Text: the name of a tensor; number: its elements.
STERNA_EXPORT(sterna_tensor_count)()->std::size_t {
    return reader().tensors().size();
}
STERNA_EXPORT(sterna_tensor)(std::size_t tensor)->void {
    const sterna::TensorInfo& info = reader().tensors()[tensor];
    text.assign(reinterpret_cast<const char*>(reader().table_text().data()) + info.name_begin, info.name_size);
    numbers = {static_cast<double>(info.elements)};
}

// Text: its name; numbers: its sizes without the batch, 0 where any will do.
STERNA_EXPORT(sterna_input_count)()->std::size_t {
    return session->graph().inputs.size();
}
STERNA_EXPORT(sterna_input)(std::size_t input)->void {
    const sterna::GraphInput& one = session->graph().inputs[input];
    text = one.name;
    numbers.assign(one.shape.begin(), one.shape.end());
}

// Where the numbers of an input of these sizes go; 0 if there is no memory for them.
STERNA_EXPORT(sterna_input_room)(std::size_t input, const std::uint32_t* sizes, std::size_t rank)->float* {
    std::uint64_t count = 1;
    for (std::size_t axis = 0; axis < rank; ++axis) {
        if (sizes[axis] != 0 && count > kMaxElements / sizes[axis]) return nullptr;
        count *= sizes[axis];
    }
    Input& one = inputs[input];
    one.sizes.assign(sizes, sizes + rank);
    return one.numbers.assign(count, 0.0f) == sterna::Status::kOk ? one.numbers.data() : nullptr;
}

// Computes the outputs for the inputs that have been written.
STERNA_EXPORT(sterna_run)(std::int32_t is_timed)->std::int32_t {
    std::vector<sterna::Sizes> sizes;
    std::vector<const float*> from;
    for (const Input& input : inputs) {
        sizes.push_back(input.sizes);
        from.push_back(input.numbers.data());
    }
    std::string what;
    plan = session->plan(sizes, what);
    if (plan == nullptr) return problem(what);
    std::vector<float*> to;
    for (std::size_t i = 0; i < outputs.size(); ++i) {
        const sterna::Shape& shape = plan->outputs()[i];
        const std::uint64_t count = std::uint64_t{plan->images()} * shape.channels * shape.height * shape.width;
        if (outputs[i].assign(count, 0.0f) != sterna::Status::kOk) {
            return problem("not enough memory for the outputs");
        }
        to.push_back(outputs[i].data());
    }
    times.clear();
    what = session->run(*plan, from.data(), to.data(), is_timed != 0 ? &times : nullptr);
    return what.empty() ? kDone : problem(what);
}

// Text: its name.
STERNA_EXPORT(sterna_output_count)()->std::size_t {
    return outputs.size();
}
STERNA_EXPORT(sterna_output_name)(std::size_t output)->void {
    text = session->graph().outputs[output].name;
}
// After a run. Numbers: its sizes, the batch too.
STERNA_EXPORT(sterna_output)(std::size_t output)->void {
    const sterna::Shape& shape = plan->outputs()[output];
    numbers = {static_cast<double>(plan->images()), static_cast<double>(shape.channels)};
    if (!shape.is_matrix) {
        numbers.push_back(shape.height);
        numbers.push_back(shape.width);
    }
}
STERNA_EXPORT(sterna_output_data)(std::size_t output)->const float* {
    return outputs[output].data();
}

// Steps of a run that was timed. Numbers: seconds, useful operations, and the node, or -1 for what the engine adds.
STERNA_EXPORT(sterna_step_count)()->std::size_t {
    return times.size();
}
STERNA_EXPORT(sterna_step)(std::size_t index)->void {
    const sterna::Step& step = plan->steps()[times[index].step];
    const double node = step.node == sterna::kNothing ? -1.0 : static_cast<double>(step.node);
    text = plan->kernel_name(step);
    numbers = {times[index].seconds, static_cast<double>(step.operations), node};
}
// Text: the operator of a node; number: its first tensor, or -1.
STERNA_EXPORT(sterna_node)(std::size_t index)->void {
    const sterna::GraphNode& node = session->graph().nodes[index];
    text = sterna::name(node.op);
    numbers = {node.tensors[0] == sterna::kNoTensor ? -1.0 : static_cast<double>(node.tensors[0])};
}
