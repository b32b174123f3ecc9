// Reads .sterna files (docs/format.md), which are hostile until proven otherwise: every size is checked against a limit
// and against the bytes that are really there before memory is taken or anything is decoded.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "core/base/buffer.h"
#include "core/base/status.h"
#include "core/codec/trit_coder.h"
#include "core/container/format.h"

namespace sterna {

// Why a file is refused; `docs/format.md` lists the rules by these names.
enum class Cause : std::uint8_t {
    kNone,
    kMemory,
    kTruncated,
    kMagic,
    kVersion,
    kChecksum,
    kReserved,
    kSections,
    kText,
    kTable,
    kLimit,
    kRatio,
    kCoverage,
    kTrits,
    kArrays,
};
const char* name(Cause cause);

// The first rule that a file broke. `got` and `allowed` have a meaning if `has_numbers`.
struct Fault {
    Cause cause = Cause::kNone;
    const char* message = "";
    std::uint64_t offset = 0;
    bool has_numbers = false;
    std::uint64_t got = 0;
    std::uint64_t allowed = 0;

    explicit operator bool() const { return cause != Cause::kNone; }
};

struct TensorInfo {
    std::uint32_t name_begin = 0;  // in Reader::table_text
    std::uint32_t name_size = 0;
    TensorKind kind = TensorKind::kBool;
    ScaleKind scale = ScaleKind::kNone;
    std::uint8_t rank = 0;
    std::array<std::uint64_t, kMaxAxes> shape{};
    std::uint64_t elements = 0;
};

// A run of filters of a ternary tensor with a code of its own.
struct TritChunk {
    std::uint32_t tensor = 0;
    std::uint32_t section = 0;
    TritCoder coder = TritCoder::kSmall;
    std::uint64_t offset = 0;  // in the file
    std::uint64_t size = 0;
    std::uint64_t begin = 0;  // first element of the tensor
    KernelShape shape;

    std::uint64_t elements() const { return shape.weights(); }
};

// What a tensor keeps among the arrays: itself or its scale.
struct KeptArray {
    std::uint32_t tensor = 0;
    std::uint32_t section = 0;  // of kind kArrays
    bool is_scale = false;
    unsigned width = 0;
    std::uint64_t elements = 0;
};

struct SectionInfo {
    std::uint8_t kind = 0;
    bool is_optional = false;
    std::uint64_t offset = 0;  // of the payload in the file
    std::uint64_t size = 0;    // of the payload
    // What it holds: chunks of trits or kept arrays, by their indices.
    std::uint32_t first = 0;
    std::uint32_t count = 0;
};

// A view of the bytes of a file, which must outlive it. After open(), the other functions may be called from several
// threads at once.
class Reader {
  public:
    // Reads everything but trits and arrays. With `whole_checksum` the checksum of the file is compared first; without,
    // only those of the sections that are read, here and later.
    Fault open(const std::uint8_t* bytes, std::size_t size, bool whole_checksum);

    // Reads as much as the first bytes of a file tell while the others are on their way. Called again with more bytes,
    // which may have moved, it goes on where it stopped; calls are cheap where nothing new can be told. Afterwards the
    // tables hold what is known, and trits whose bytes are there can be read (has_arrived). What it refuses, open()
    // refuses too, perhaps for a rule that it checks sooner; that a file is whole and sound only open() says, which
    // is called in the end, on this reader or another, and fills the tables with the same.
    Fault look(const std::uint8_t* bytes, std::size_t size);
    bool has_arrived(const TritChunk& chunk) const { return chunk.size <= size_ && chunk.offset <= size_ - chunk.size; }

    const Buffer<std::uint8_t>& table_text() const { return table_text_; }
    const Buffer<std::uint8_t>& metadata() const { return metadata_; }
    // The bytes of the graphs as they are: who runs them has still to check them. Empty if there are none.
    const Buffer<std::uint8_t>& graph() const { return graph_; }
    const Buffer<TensorInfo>& tensors() const { return tensors_; }
    const Buffer<SectionInfo>& sections() const { return sections_; }
    const Buffer<TritChunk>& trit_chunks() const { return chunks_; }
    const Buffer<KeptArray>& arrays() const { return arrays_; }

    Fault check_section(std::size_t section) const;

    // `trits` is where the tensor begins; the chunk's part of it is written.
    Fault read_trits(const TritChunk& chunk, std::int8_t* trits) const {
        return read_chunk(chunk, trits + chunk.begin);
    }
    // The same, where there is room for the chunk alone.
    Fault read_chunk(const TritChunk& chunk, std::int8_t* trits) const;

    // Reads all arrays of a section; `destinations[i]` has room for array `sections()[section].first + i`.
    Fault read_arrays(std::size_t section, std::uint8_t* const* destinations) const;

  private:
    Fault check_prefix() const;
    Fault check_frame(bool whole_checksum) const;
    Fault find_sections();
    Fault read_head(std::uint64_t at, SectionInfo& section) const;
    Fault read_section(std::uint32_t index);
    Fault look_at_head();
    Fault look_into_section();
    Fault check_order(const SectionInfo& section, std::uint64_t at) const;
    Fault read_text(const SectionInfo& section, std::uint64_t most, Buffer<std::uint8_t>& text) const;
    Fault read_table();
    Fault read_tensor(std::size_t& position, TensorInfo& tensor) const;
    Fault list_arrays();
    std::size_t bytes_there(const SectionInfo& section) const;
    Fault list_trits(std::uint32_t section_index);
    Fault list_trit_tensor(std::uint32_t section_index, std::uint32_t tensor, std::size_t& position);
    Fault assign_arrays(std::uint32_t section_index);
    Fault read_width(std::size_t section, unsigned width, std::size_t& position,
                     std::uint8_t* const* destinations) const;

    const std::uint8_t* bytes_ = nullptr;
    std::size_t size_ = 0;
    Buffer<SectionInfo> sections_;
    Buffer<std::uint8_t> table_text_;
    Buffer<std::uint8_t> metadata_;
    Buffer<std::uint8_t> graph_;
    Buffer<TensorInfo> tensors_;
    Buffer<TritChunk> chunks_;
    Buffer<KeptArray> arrays_;
    // The first ones that no section has held so far.
    std::uint32_t next_tensor_ = 0;
    std::uint32_t next_array_ = 0;
    // How far look() has come: the section after the last one that is listed, the bytes with which something new can be
    // told, whether that last one is not whole yet, and whether its trits are listed nevertheless.
    std::uint64_t next_section_ = kPrefixBytes;
    std::uint64_t worth_looking_ = kPrefixBytes;
    bool is_inside_ = false;
    bool is_listed_ = false;
};

}  // namespace sterna
