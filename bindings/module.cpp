// The core for Python; the engine is in engine.cpp.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <exception>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "bindings/engine.h"
#include "core/codec/byte_model.h"
#include "core/codec/number_coder.h"
#include "core/codec/text_coder.h"
#include "core/codec/text_primer.h"
#include "core/codec/trit_coder.h"
#include "core/container/fault_text.h"
#include "core/container/format.h"
#include "core/container/reader.h"

namespace nb = nanobind;

namespace {

using TritArray = nb::ndarray<const std::int8_t, nb::c_contig, nb::device::cpu>;
using ByteArray = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using TritOutput = nb::ndarray<std::int8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using ByteOutput = nb::ndarray<std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void check(sterna::Status status) {
    if (status == sterna::Status::kOutOfMemory) throw std::bad_alloc();
    if (status != sterna::Status::kOk) throw nb::value_error(sterna::message(status));
}

// A rule of the format that a file broke.
class FaultError : public std::exception {
  public:
    explicit FaultError(const sterna::Fault& fault) : text_(sterna::to_text(fault)) {}
    const char* what() const noexcept override { return text_.c_str(); }

  private:
    std::string text_;
};

void check(const sterna::Fault& fault) {
    if (fault.cause == sterna::Cause::kMemory) throw std::bad_alloc();
    if (fault) throw FaultError(fault);
}

nb::bytes to_bytes(const sterna::Buffer<std::uint8_t>& buffer) {
    return nb::bytes(reinterpret_cast<const char*>(buffer.data()), buffer.size());
}

sterna::TritCoder coder_of(unsigned number) {
    if (number >= sterna::kNumTritCoders) throw nb::value_error("no coder has this number");
    return static_cast<sterna::TritCoder>(number);
}

template <class Array>
sterna::KernelShape view(const Array& array) {
    std::vector<std::uint64_t> shape(array.ndim());
    for (std::size_t axis = 0; axis < shape.size(); ++axis) shape[axis] = array.shape(axis);
    sterna::KernelShape kernel;
    check(sterna::kernel_shape(shape.data(), shape.size(), kernel));
    return kernel;
}

nb::bytes encode_trits(const TritArray& trits, unsigned coder) {
    const sterna::KernelShape kernel = view(trits);
    const sterna::TritCoder chosen = coder_of(coder);
    sterna::Buffer<std::uint8_t> bytes;
    sterna::Status status;
    {
        nb::gil_scoped_release release;
        status = sterna::encode_trits(chosen, trits.data(), kernel, bytes);
    }
    check(status);
    return to_bytes(bytes);
}

void decode_trits(const ByteArray& data, const nb::ndarray<std::int8_t, nb::c_contig, nb::device::cpu>& trits,
                  unsigned coder) {
    const sterna::KernelShape kernel = view(trits);
    const sterna::TritCoder chosen = coder_of(coder);
    sterna::Status status;
    {
        nb::gil_scoped_release release;
        status = sterna::decode_trits(chosen, data.data(), data.size(), kernel, trits.data());
    }
    check(status);
}

nb::bytes encode_text(const nb::bytes& text) {
    sterna::Buffer<std::uint8_t> bytes;
    check(sterna::encode_text(reinterpret_cast<const std::uint8_t*>(text.c_str()), text.size(), bytes));
    return to_bytes(bytes);
}

nb::bytes encode_numbers(const ByteArray& numbers, unsigned width) {
    if (width < 1 || width > 8 || numbers.size() % width != 0) throw nb::value_error("numbers of 1 to 8 bytes, whole");
    sterna::Buffer<std::uint8_t> bytes;
    sterna::Status status;
    {
        nb::gil_scoped_release release;
        status = sterna::encode_numbers(numbers.data(), numbers.size() / width, width, bytes);
    }
    check(status);
    return to_bytes(bytes);
}

// A file in memory that is read part by part; the array is kept alive as long as its reader.
class FileReader {
  public:
    FileReader(ByteArray bytes, bool whole_checksum) : bytes_(std::move(bytes)) {
        sterna::Fault fault;
        {
            nb::gil_scoped_release release;
            fault = reader_.open(bytes_.data(), bytes_.size(), whole_checksum);
        }
        check(fault);
    }

    nb::bytes metadata() const { return to_bytes(reader_.metadata()); }
    nb::bytes graph() const { return to_bytes(reader_.graph()); }

    // (name in UTF-8, kind, scale kind, shape) of each tensor.
    nb::list tensors() const {
        nb::list list;
        for (std::size_t i = 0; i < reader_.tensors().size(); ++i) {
            const sterna::TensorInfo& tensor = reader_.tensors()[i];
            const auto* name = reinterpret_cast<const char*>(reader_.table_text().data()) + tensor.name_begin;
            const std::vector<std::uint64_t> shape(tensor.shape.begin(), tensor.shape.begin() + tensor.rank);
            list.append(nb::make_tuple(nb::bytes(name, tensor.name_size), static_cast<unsigned>(tensor.kind),
                                       static_cast<unsigned>(tensor.scale), nb::tuple(nb::cast(shape))));
        }
        return list;
    }

    // (kind, offset of the payload, its bytes, first chunk or array, their number) of each section.
    nb::list sections() const {
        nb::list list;
        for (std::size_t i = 0; i < reader_.sections().size(); ++i) {
            const sterna::SectionInfo& section = reader_.sections()[i];
            list.append(nb::make_tuple(section.kind, section.offset, section.size, section.first, section.count));
        }
        return list;
    }

    // (tensor, coder, bytes, first element, elements) of each chunk of trits.
    nb::list trit_chunks() const {
        nb::list list;
        for (std::size_t i = 0; i < reader_.trit_chunks().size(); ++i) {
            const sterna::TritChunk& chunk = reader_.trit_chunks()[i];
            list.append(nb::make_tuple(chunk.tensor, static_cast<unsigned>(chunk.coder), chunk.size, chunk.begin,
                                       chunk.elements()));
        }
        return list;
    }

    // (tensor, section, whether it is a scale, bytes of an element, elements) of each array.
    nb::list arrays() const {
        nb::list list;
        for (std::size_t i = 0; i < reader_.arrays().size(); ++i) {
            const sterna::KeptArray& array = reader_.arrays()[i];
            list.append(nb::make_tuple(array.tensor, array.section, array.is_scale, array.width, array.elements));
        }
        return list;
    }

    // `trits` is the whole tensor, flat.
    void read_trits(std::size_t index, const TritOutput& trits) const {
        if (index >= reader_.trit_chunks().size()) throw nb::index_error("no such chunk");
        const sterna::TritChunk& chunk = reader_.trit_chunks()[index];
        if (trits.size() != reader_.tensors()[chunk.tensor].elements) throw nb::value_error("array of another size");
        sterna::Fault fault;
        {
            nb::gil_scoped_release release;
            fault = reader_.read_trits(chunk, trits.data());
        }
        check(fault);
    }

    // One flat array of bytes for each array of the section.
    void read_arrays(std::size_t index, const std::vector<ByteOutput>& outputs) const {
        if (index >= reader_.sections().size()) throw nb::index_error("no such section");
        const sterna::SectionInfo& section = reader_.sections()[index];
        if (section.kind != static_cast<std::uint8_t>(sterna::SectionKind::kArrays) ||
            outputs.size() != section.count) {
            throw nb::value_error("a section of other arrays");
        }
        std::vector<std::uint8_t*> destinations;
        for (std::size_t i = 0; i < outputs.size(); ++i) {
            const sterna::KeptArray& array = reader_.arrays()[section.first + i];
            if (outputs[i].size() != array.elements * array.width) throw nb::value_error("array of another size");
            destinations.push_back(outputs[i].data());
        }
        sterna::Fault fault;
        {
            nb::gil_scoped_release release;
            fault = reader_.read_arrays(index, destinations.data());
        }
        check(fault);
    }

  private:
    ByteArray bytes_;
    sterna::Reader reader_;
};

}  // namespace

NB_MODULE(_core, module) {
    module.doc() = "Native code of Sterna.";
    nb::exception<FaultError>(module, "Fault", PyExc_ValueError);
    module.attr("VERSION") = sterna::kVersion;
    module.attr("MAX_TEXT_BYTES") = sterna::kMaxTextBytes;
    module.attr("MAX_GRAPH_BYTES") = sterna::kMaxGraphBytes;
    module.attr("MAX_TENSORS") = sterna::kMaxTensors;
    module.attr("MAX_NAME_BYTES") = sterna::kMaxNameBytes;
    module.attr("MAX_AXES") = sterna::kMaxAxes;
    module.attr("MAX_ELEMENTS") = sterna::kMaxElements;
    module.attr("MAX_TOTAL_ELEMENTS") = sterna::kMaxTotalElements;
    module.attr("MAX_TRITS_PER_BYTE") = sterna::kMaxTritsPerByte;
    module.attr("MAX_BYTES_PER_BYTE") = sterna::kMaxBytesPerByte;
    module.attr("SLACK_BYTES") = sterna::kSlackBytes;
    module.attr("NUMBERS_PER_CHUNK") = sterna::kNumbersPerChunk;
    module.attr("TEXT_PRIMER") = sterna::kTextPrimer;
    module.def("encode_trits", &encode_trits, nb::arg("trits"), nb::arg("coder"),
               "Code an int8 array of -1, 0 and 1 with the coder of this number.");
    module.def("decode_trits", &decode_trits, nb::arg("data"), nb::arg("trits"), nb::arg("coder"),
               "Fill an int8 array from the code of one of its shape; ValueError where the bytes are no such code.");
    module.def("encode_text", &encode_text, nb::arg("text"),
               "Code text for the table of tensors, the metadata or the graph.");
    module.def("encode_numbers", &encode_numbers, nb::arg("numbers"), nb::arg("width"),
               "Code numbers of `width` bytes each, given as their bytes.");
    nb::class_<FileReader>(module, "Reader", "The parts of a file; a rule that is broken raises Fault.")
        .def(nb::init<ByteArray, bool>(), nb::arg("data"), nb::arg("whole_checksum"))
        .def("metadata", &FileReader::metadata)
        .def("graph", &FileReader::graph)
        .def("tensors", &FileReader::tensors)
        .def("sections", &FileReader::sections)
        .def("trit_chunks", &FileReader::trit_chunks)
        .def("arrays", &FileReader::arrays)
        .def("read_trits", &FileReader::read_trits, nb::arg("chunk"), nb::arg("trits"))
        .def("read_arrays", &FileReader::read_arrays, nb::arg("section"), nb::arg("outputs"));
    bind_engine(module);
}
