// Opens a session while its file is on its way: trits are decoded as soon as their bytes are there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/base/buffer.h"
#include "core/container/reader.h"
#include "core/engine/session.h"

namespace sterna {

// Nothing that it decodes is used before finish() has checked the whole file as Session::open does, so that the pieces
// in which a file comes change nothing.
class SessionLoader {
  public:
    // Of the graph of this name, or of the first one: the whole network, or of a detector the part that sees the
    // picture.
    SessionLoader(std::optional<std::string> graph, const EngineOptions& options, unsigned threads);

    // Adds bytes to those before. A fault if they do not begin a file; what else is wrong with it, finish() says.
    Fault append(const std::uint8_t* bytes, std::size_t size);

    // Decodes a chunk of trits that has arrived; false if there is none.
    bool decode_next();

    // The share of the trits that have been decoded, as far as the file has told what it holds.
    double progress() const;

    // The fault of the whole file. Its metadata() and tensors are known if there is none.
    Fault check();
    const Reader& reader() const { return session_->reader_; }

    // After a check without a fault: the session, or nothing and a problem. The loader is not used afterwards.
    std::unique_ptr<Session> finish(std::string& problem);

  private:
    void find_wanted();

    std::optional<std::string> graph_;
    std::unique_ptr<Session> session_;
    Buffer<std::uint8_t> bytes_;
    bool is_hopeless_ = false;  // a fault was found: nothing more is decoded before check() says which
    bool knows_wanted_ = false;
    std::vector<bool> is_wanted_;  // tensors that the graph uses
    std::uint32_t next_chunk_ = 0;
    std::uint64_t decoded_ = 0, wanted_ = 0;  // trits
};

}  // namespace sterna
