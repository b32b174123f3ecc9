// The engine for Python.
#include "bindings/engine.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "core/engine/session.h"
#include "core/kernels/amx_state.h"
#include "core/kernels/isa.h"

namespace nb = nanobind;

namespace {

using ByteArray = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using FloatArray = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using FloatOutput = nb::ndarray<float, nb::c_contig, nb::device::cpu>;

void check(const std::string& problem) {
    if (!problem.empty()) throw nb::value_error(problem.c_str());
}

sterna::Isa isa_of(const std::string& name) {
    for (std::size_t i = 0; i < sterna::kNumIsas; ++i) {
        const auto isa = static_cast<sterna::Isa>(i);
        if (name == sterna::name(isa) && sterna::is_available(isa)) return isa;
    }
    throw nb::value_error("no such instruction set");
}

std::vector<std::string> isas() {
    std::vector<std::string> names;
    for (std::size_t i = 0; i < sterna::kNumIsas; ++i) {
        const auto isa = static_cast<sterna::Isa>(i);
        if (sterna::is_available(isa)) names.emplace_back(sterna::name(isa));
    }
    return names;
}

class Engine {
  public:
    Engine(const ByteArray& data, const std::string& graph, const std::string& isa, bool int8_activations,
           bool is_tuned, unsigned threads, const std::vector<std::pair<float, float>>& ranges,
           const std::vector<std::uint32_t>& outputs) {
        sterna::EngineOptions options;
        options.isa = isa_of(isa);
        options.int8_activations = int8_activations;
        options.is_tuned = is_tuned;
        std::vector<sterna::Range> given;
        for (const auto& [low, high] : ranges) given.push_back({low, high});
        std::string problem;
        {
            nb::gil_scoped_release release;
            session_ =
                sterna::Session::open(data.data(), data.size(), graph, given, outputs, options, threads, problem);
        }
        check(problem);
    }

    // (name, sizes without the batch) of each input.
    std::vector<std::pair<std::string, std::vector<std::uint32_t>>> inputs() const {
        std::vector<std::pair<std::string, std::vector<std::uint32_t>>> list;
        for (const sterna::GraphInput& input : session_->graph().inputs) list.emplace_back(input.name, input.shape);
        return list;
    }

    std::vector<std::string> outputs() const {
        std::vector<std::string> names;
        for (const sterna::GraphOutput& output : session_->graph().outputs) names.push_back(output.name);
        return names;
    }

    // Shapes of the outputs for inputs of these shapes; what has to be prepared for them is.
    std::vector<std::vector<std::uint32_t>> output_shapes(const std::vector<std::vector<std::uint32_t>>& inputs) {
        const std::shared_ptr<const sterna::Plan> plan = prepare(inputs);
        std::vector<std::vector<std::uint32_t>> shapes;
        for (const sterna::Shape& shape : plan->outputs()) {
            if (shape.is_matrix) {
                shapes.push_back({plan->images(), shape.channels});
            } else {
                shapes.push_back({plan->images(), shape.channels, shape.height, shape.width});
            }
        }
        return shapes;
    }

    // Fills the outputs; their shapes are those of output_shapes. Times of the steps in seconds, if they are asked for.
    std::vector<double> run(const std::vector<FloatArray>& inputs, const std::vector<FloatOutput>& outputs,
                            bool is_timed) {
        std::vector<sterna::Sizes> sizes;
        std::vector<const float*> from;
        for (const FloatArray& input : inputs) {
            sterna::Sizes one;
            for (std::size_t axis = 0; axis < input.ndim(); ++axis) {
                one.push_back(static_cast<std::uint32_t>(input.shape(axis)));
            }
            sizes.push_back(one);
            from.push_back(input.data());
        }
        const std::shared_ptr<const sterna::Plan> plan = prepare(sizes);
        std::vector<float*> to;
        if (outputs.size() != plan->outputs().size()) throw nb::value_error("another number of outputs");
        for (std::size_t i = 0; i < outputs.size(); ++i) {
            const sterna::Shape& shape = plan->outputs()[i];
            if (outputs[i].size() != std::size_t{plan->images()} * shape.channels * shape.height * shape.width) {
                throw nb::value_error("an output of another size");
            }
            to.push_back(outputs[i].data());
        }
        std::vector<sterna::StepTime> times;
        std::string problem;
        {
            nb::gil_scoped_release release;
            problem = session_->run(*plan, from.data(), to.data(), is_timed ? &times : nullptr);
        }
        check(problem);
        std::vector<double> seconds;
        for (const sterna::StepTime& time : times) seconds.push_back(time.seconds);
        return seconds;
    }

    // (node or nothing, kernel, useful operations) of each step.
    nb::list steps(const std::vector<std::vector<std::uint32_t>>& inputs) {
        const std::shared_ptr<const sterna::Plan> plan = prepare(inputs);
        nb::list list;
        for (const sterna::Step& step : plan->steps()) {
            nb::object node = step.node == sterna::kNothing ? nb::none() : nb::cast(step.node);
            list.append(nb::make_tuple(node, plan->kernel_name(step), step.operations));
        }
        return list;
    }

    std::size_t arena_bytes(const std::vector<std::vector<std::uint32_t>>& inputs) {
        return prepare(inputs)->arena_bytes();
    }

    std::vector<std::uint32_t> computed_values(const std::vector<std::vector<std::uint32_t>>& inputs) {
        std::string problem;
        std::vector<std::uint32_t> values = session_->computed_values(inputs, problem);
        check(problem);
        return values;
    }

  private:
    std::shared_ptr<const sterna::Plan> prepare(const std::vector<sterna::Sizes>& inputs) {
        std::string problem;
        std::shared_ptr<const sterna::Plan> plan;
        {
            nb::gil_scoped_release release;
            plan = session_->plan(inputs, problem);
        }
        check(problem);
        return plan;
    }

    std::unique_ptr<sterna::Session> session_;
};

}  // namespace

void bind_engine(nb::module_& module) {
    module.attr("MAX_THREADS") = sterna::kMaxThreads;
    module.def("isas", &isas, "Instruction sets of this processor for which there are kernels, the best one last.");
    module.def(
        "amx_state", [] { return sterna::describe(sterna::amx_state()); },
        "Whether this process can use AMX, in words; \"usable\" if it can.");
    nb::class_<Engine>(module, "Engine", "A graph of a file that is ready to run; ValueError says what does not fit.")
        .def(nb::init<ByteArray, std::string, std::string, bool, bool, unsigned, std::vector<std::pair<float, float>>,
                      std::vector<std::uint32_t>>(),
             nb::arg("data"), nb::arg("graph"), nb::arg("isa"), nb::arg("int8_activations"), nb::arg("is_tuned"),
             nb::arg("threads"), nb::arg("ranges"), nb::arg("outputs"))
        .def("inputs", &Engine::inputs)
        .def("outputs", &Engine::outputs)
        .def("output_shapes", &Engine::output_shapes, nb::arg("inputs"))
        .def("run", &Engine::run, nb::arg("inputs"), nb::arg("outputs"), nb::arg("is_timed"))
        .def("steps", &Engine::steps, nb::arg("inputs"))
        .def("arena_bytes", &Engine::arena_bytes, nb::arg("inputs"))
        .def("computed_values", &Engine::computed_values, nb::arg("inputs"));
}
