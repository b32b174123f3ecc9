#include "core/testing/network.h"

#include <cstdlib>
#include <cstring>

#include "core/base/buffer.h"
#include "core/base/varint.h"
#include "core/codec/number_coder.h"
#include "core/codec/text_coder.h"
#include "core/codec/trit_coder.h"
#include "core/container/crc32.h"
#include "core/container/format.h"

namespace sterna::testing {
namespace {

using Bytes = std::vector<std::uint8_t>;

// What is made here is made right: a failure is one of the test's own.
void must(Status status) {
    if (status != Status::kOk) std::abort();
}

void append(Bytes& to, const Buffer<std::uint8_t>& from) {
    to.insert(to.end(), from.data(), from.data() + from.size());
}

void put(Bytes& to, std::uint64_t number) {
    Buffer<std::uint8_t> bytes;
    must(put_varint(number, bytes));
    append(to, bytes);
}

void put_u32(Bytes& to, std::uint32_t number) {
    for (unsigned i = 0; i < 4; ++i) to.push_back(static_cast<std::uint8_t>(number >> 8 * i & 255));
}

void put_float(Bytes& to, float number) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, &number, sizeof(bits));
    put_u32(to, bits);
}

void put_name(Bytes& to, const std::string& name) {
    put(to, name.size());
    to.insert(to.end(), name.begin(), name.end());
}

void put_section(Bytes& file, SectionKind kind, std::uint8_t flags, const Bytes& payload) {
    const std::size_t begin = file.size();
    file.push_back(static_cast<std::uint8_t>(kind));
    file.push_back(flags);
    file.push_back(static_cast<std::uint8_t>(kVersion));
    file.push_back(0);
    put_u32(file, static_cast<std::uint32_t>(payload.size()));
    file.insert(file.end(), payload.begin(), payload.end());
    put_u32(file, crc32(file.data() + begin, file.size() - begin));
}

Bytes text(const Bytes& plain) {
    Bytes payload;
    put(payload, plain.size());
    Buffer<std::uint8_t> coded;
    must(encode_text(plain.data(), plain.size(), coded));
    append(payload, coded);
    return payload;
}

Bytes table(const std::vector<Tensor>& tensors) {
    Bytes plain;
    put(plain, tensors.size());
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        constexpr TensorKind kKinds[] = {TensorKind::kTrits, TensorKind::kScaledInt8, TensorKind::kFloat32};
        const Tensor& tensor = tensors[i];
        put_name(plain, "t" + std::to_string(i));
        plain.push_back(static_cast<std::uint8_t>(kKinds[static_cast<std::size_t>(tensor.kind)]));
        const ScaleKind scale = tensor.scale.empty()       ? ScaleKind::kNone
                                : tensor.scale.size() == 1 ? ScaleKind::kFloat32OfAll
                                                           : ScaleKind::kFloat32OfFilter;
        plain.push_back(static_cast<std::uint8_t>(scale));
        plain.push_back(static_cast<std::uint8_t>(tensor.shape.size()));
        for (const std::uint32_t axis : tensor.shape) put(plain, axis);
    }
    return text(plain);
}

// In one section: the arrays of one byte an element, then those of four.
Bytes arrays(const std::vector<Tensor>& tensors) {
    std::uint64_t count = 0;
    Bytes narrow, wide;
    for (const Tensor& tensor : tensors) {
        if (tensor.kind == Tensor::Kind::kInt8) {
            for (const std::int8_t number : tensor.whole) narrow.push_back(static_cast<std::uint8_t>(number));
        }
        if (tensor.kind != Tensor::Kind::kSigns) ++count;
        if (!tensor.scale.empty()) ++count;
        for (const float number : tensor.real) put_float(wide, number);
        for (const float number : tensor.scale) put_float(wide, number);
    }
    Bytes payload;
    if (count == 0) return payload;
    put(payload, count);
    for (const unsigned width : {1u, 4u}) {
        const Bytes& numbers = width == 1 ? narrow : wide;
        for (std::size_t at = 0; at < numbers.size(); at += kNumbersPerChunk * width) {
            const std::size_t left = numbers.size() - at;
            const std::size_t size = left < kNumbersPerChunk * width ? left : kNumbersPerChunk * width;
            Buffer<std::uint8_t> coded;
            must(encode_numbers(numbers.data() + at, size / width, width, coded));
            put(payload, coded.size());
            append(payload, coded);
        }
    }
    return payload;
}

Bytes trits(const std::vector<Tensor>& tensors) {
    std::uint64_t count = 0;
    Bytes head, code;
    for (const Tensor& tensor : tensors) {
        if (tensor.kind != Tensor::Kind::kSigns) continue;
        ++count;
        const std::vector<std::uint64_t> axes(tensor.shape.begin(), tensor.shape.end());
        KernelShape shape;
        must(kernel_shape(axes.data(), axes.size(), shape));
        Buffer<std::uint8_t> coded;
        must(encode_trits(TritCoder::kFast, tensor.whole.data(), shape, coded));
        put(head, static_cast<std::uint64_t>(TritCoder::kFast));
        put(head, shape.filters);
        put(head, coded.size());
        append(code, coded);
    }
    Bytes payload;
    if (count == 0) return payload;
    put(payload, count);
    payload.insert(payload.end(), head.begin(), head.end());
    payload.insert(payload.end(), code.begin(), code.end());
    return payload;
}

}  // namespace

std::size_t Tensor::elements() const {
    std::size_t elements = 1;
    for (const std::uint32_t axis : shape) elements *= axis;
    return elements;
}

std::size_t tensor_count(Operator op) {
    switch (op) {
        case Operator::kConv2d:
        case Operator::kLinear:
        case Operator::kAffine:
        case Operator::kConvTranspose2d:
            return 2;
        default:
            return 0;
    }
}

std::size_t attribute_count(Operator op) {
    switch (op) {
        case Operator::kConv2d:
            return 9;
        case Operator::kMaxPool2d:
            return 11;
        case Operator::kAvgPool2d:
            return 10;
        case Operator::kPad:
        case Operator::kConvTranspose2d:
            return 6;
        case Operator::kResizeBilinear:
        case Operator::kUpsampleBilinear:
            return 3;
        case Operator::kAdaptiveAvgPool2d:
        case Operator::kAdaptiveMaxPool2d:
        case Operator::kResizeNearest:
        case Operator::kUpsampleNearest:
            return 2;
        default:
            return 0;
    }
}

std::vector<std::uint8_t> encode_graph(const Graph& graph) {
    Bytes bytes;
    put(bytes, 1);
    put_name(bytes, graph.name);
    put(bytes, graph.inputs.size());
    for (const GraphInput& input : graph.inputs) {
        put_name(bytes, input.name);
        put(bytes, input.shape.size());
        for (const std::uint32_t axis : input.shape) put(bytes, axis);
    }
    put(bytes, graph.nodes.size());
    for (const GraphNode& node : graph.nodes) {
        bytes.push_back(static_cast<std::uint8_t>(node.op));
        put(bytes, node.inputs.size());
        for (const std::uint32_t value : node.inputs) put(bytes, value);
        for (std::size_t i = 0; i < tensor_count(node.op); ++i) {
            put(bytes, node.tensors[i] == kNoTensor ? 0 : std::uint64_t{node.tensors[i]} + 1);
        }
        for (std::size_t i = 0; i < attribute_count(node.op); ++i) put(bytes, node.attributes[i]);
    }
    put(bytes, graph.outputs.size());
    for (const GraphOutput& output : graph.outputs) {
        put_name(bytes, output.name);
        put(bytes, output.value);
    }
    put(bytes, graph.ranges.size());
    for (const Range& range : graph.ranges) {
        put_float(bytes, range.low);
        put_float(bytes, range.high);
    }
    return bytes;
}

Sections encode_tensors(const std::vector<Tensor>& tensors) {
    Sections sections;
    put_section(sections.before_graph, SectionKind::kTensors, 0, table(tensors));
    Bytes& after = sections.after_graph;
    if (const Bytes payload = arrays(tensors); !payload.empty()) put_section(after, SectionKind::kArrays, 0, payload);
    if (const Bytes payload = trits(tensors); !payload.empty()) put_section(after, SectionKind::kTrits, 0, payload);
    return sections;
}

std::vector<std::uint8_t> encode_file(const Sections& tensors, const std::vector<std::uint8_t>& graph) {
    Bytes file(kMagic.begin(), kMagic.end());
    put_u32(file, kVersion);
    file.insert(file.end(), tensors.before_graph.begin(), tensors.before_graph.end());
    put_section(file, SectionKind::kGraph, kOptional, text(graph));
    file.insert(file.end(), tensors.after_graph.begin(), tensors.after_graph.end());
    Bytes whole;
    put_u32(whole, crc32(file.data(), file.size()));
    put_section(file, SectionKind::kEnd, 0, whole);
    return file;
}

std::vector<std::uint8_t> encode_file(const Network& network) {
    return encode_file(encode_tensors(network.tensors), encode_graph(network.graph));
}

}  // namespace sterna::testing
