// Makes files of networks without Python: for tests and fuzz targets.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/engine/graph.h"

namespace sterna::testing {

// A tensor as a file holds it: `whole` numbers of signs and int8, or `real` ones.
struct Tensor {
    enum class Kind : std::uint8_t { kSigns, kInt8, kFloat };
    Kind kind = Kind::kFloat;
    std::vector<std::uint32_t> shape;
    std::vector<std::int8_t> whole;
    std::vector<float> real;
    std::vector<float> scale;  // by filter, of signs and int8

    std::size_t elements() const;
};

struct Network {
    std::vector<Tensor> tensors;
    Graph graph;
};

// How many tensors and attributes nodes of an operator have.
std::size_t tensor_count(Operator op);
std::size_t attribute_count(Operator op);

std::vector<std::uint8_t> encode_graph(const Graph& graph);

// The sections of a file that hold tensors.
struct Sections {
    std::vector<std::uint8_t> before_graph, after_graph;
};
Sections encode_tensors(const std::vector<Tensor>& tensors);

// A whole file, with `graph` as the bytes of its graphs.
std::vector<std::uint8_t> encode_file(const Sections& tensors, const std::vector<std::uint8_t>& graph);
std::vector<std::uint8_t> encode_file(const Network& network);

}  // namespace sterna::testing
