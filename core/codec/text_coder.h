// Coder of the texts in a file: the table of tensors and the metadata (docs/format.md, "Text").
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/base/buffer.h"
#include "core/base/status.h"

namespace sterna {

// Headers are short and much alike, so the model first reads a text that all files share: the primer.
Status encode_text(const std::uint8_t* text, std::size_t size, Buffer<std::uint8_t>& bytes);

// `text` has room for `size` bytes. Every coded byte is read, none may be left.
Status decode_text(const std::uint8_t* bytes, std::size_t coded_size, std::uint8_t* text, std::size_t size);

}  // namespace sterna
