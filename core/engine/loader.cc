#include "core/engine/loader.h"

#include <algorithm>
#include <utility>

namespace sterna {

SessionLoader::SessionLoader(std::optional<std::string> graph, const EngineOptions& options, unsigned threads)
    : graph_(std::move(graph)), session_(new Session(options, threads)) {}

Fault SessionLoader::append(const std::uint8_t* bytes, std::size_t size) {
    if (bytes_.append(bytes, size) != Status::kOk)
        return {Cause::kMemory, message(Status::kOutOfMemory), bytes_.size()};
    if (is_hopeless_) return {};
    const Fault fault = session_->reader_.look(bytes_.data(), bytes_.size());
    is_hopeless_ = static_cast<bool>(fault);
    // No file has other bytes in their place: that need not wait for the rest.
    const bool is_of_prefix = fault && fault.offset < kPrefixBytes && session_->reader_.sections().size() == 0;
    return is_of_prefix ? fault : Fault{};
}

// Graphs come before trits; a file whose graphs come later, or are damaged, is decoded in the end.
void SessionLoader::find_wanted() {
    const Reader& reader = session_->reader_;
    if (knows_wanted_ || reader.trit_chunks().size() == 0) return;
    knows_wanted_ = true;
    is_wanted_.assign(reader.tensors().size(), false);
    std::string problem;
    const auto graphs = parse_graphs(reader.graph().data(), reader.graph().size(), is_wanted_.size(), problem);
    for (const Graph& graph : graphs) {
        if (graph_ ? graph.name != *graph_ : &graph != &graphs.front()) continue;
        for (const GraphNode& node : graph.nodes) {
            for (const std::uint32_t tensor : node.tensors) {
                if (tensor != kNoTensor) is_wanted_[tensor] = true;
            }
        }
    }
    for (std::size_t i = 0; i < is_wanted_.size(); ++i) {
        if (is_wanted_[i] && reader.tensors()[i].kind == TensorKind::kTrits) wanted_ += reader.tensors()[i].elements;
    }
    session_->weights_ = std::make_unique<WeightStore>(reader);
}

bool SessionLoader::decode_next() {
    const Reader& reader = session_->reader_;
    find_wanted();
    while (!is_hopeless_ && next_chunk_ < reader.trit_chunks().size()) {
        const TritChunk& chunk = reader.trit_chunks()[next_chunk_];
        if (!reader.has_arrived(chunk)) return false;
        ++next_chunk_;
        if (!is_wanted_[chunk.tensor]) continue;
        decoded_ += chunk.elements();
        // As the reader bounds what a whole file may claim.
        is_hopeless_ = decoded_ / kMaxTritsPerByte > bytes_.size() + kSlackBytes;
        std::string problem;
        if (!is_hopeless_ && session_->weights_->decode_early(chunk, problem)) return true;
        is_hopeless_ = true;
    }
    return false;
}

double SessionLoader::progress() const {
    return wanted_ == 0 ? 0.0 : static_cast<double>(decoded_) / static_cast<double>(wanted_);
}

Fault SessionLoader::check() {
    return session_->reader_.open(bytes_.data(), bytes_.size(), true);
}

std::unique_ptr<Session> SessionLoader::finish(std::string& problem) {
    std::string name = graph_.value_or("");
    if (!graph_) {
        // What is wrong with the graphs, prepare() tells.
        const Reader& reader = session_->reader_;
        std::string unused;
        const auto graphs = parse_graphs(reader.graph().data(), reader.graph().size(), reader.tensors().size(), unused);
        if (!graphs.empty()) name = graphs.front().name;
    }
    if (!session_->prepare(name, {}, {}, problem)) return nullptr;
    return std::move(session_);
}

}  // namespace sterna
