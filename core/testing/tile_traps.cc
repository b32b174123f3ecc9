#include "core/testing/tile_traps.h"

#if defined(__linux__) && defined(__x86_64__)

#include <signal.h>
#include <ucontext.h>

#include <atomic>
#include <cstdint>

#include "core/testing/tile_registers.h"

namespace sterna::testing {
namespace {

std::atomic<bool> are_products_spoilt{false};

// A signal comes in the middle of the program, so nothing here may take memory.
thread_local constinit TileRegisters registers;

// General registers in the order of their numbers in instructions.
constexpr int kGeneral[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                              REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

// Reads an instruction: a prefix VEX of three bytes, an opcode, ModRM, and what addresses memory.
class Instruction {
  public:
    Instruction(const std::uint8_t* at, const greg_t* general) : at_(at), general_(general) {
        if (at[0] != 0xc4) return;
        // R, X and B are kept inverted, as is the third operand; map 2 is 0F 38.
        extend_reg_ = (at[1] & 0x80) == 0;
        extend_index_ = (at[1] & 0x40) == 0;
        extend_base_ = (at[1] & 0x20) == 0;
        const bool is_wide = (at[2] & 0x80) != 0, is_256 = (at[2] & 0x04) != 0;
        if ((at[1] & 0x1f) != 2 || is_wide || is_256) return;
        third_ = ~(at[2] >> 3) & 15u;
        prefix_ = at[2] & 3u;
        opcode_ = at[3];
        modrm_ = at[4];
        length_ = 5;
        if (mod() != 3) read_address();
    }

    unsigned opcode() const { return opcode_; }
    unsigned prefix() const { return prefix_; }  // 0 none, 1 66, 2 F3, 3 F2
    bool has_memory() const { return mod() != 3; }
    bool has_sib() const { return has_memory() && (modrm_ & 7) == 4; }
    unsigned reg() const { return (modrm_ >> 3 & 7u) + (extend_reg_ ? 8u : 0u); }
    unsigned rm() const { return (modrm_ & 7u) + (extend_base_ ? 8u : 0u); }
    unsigned third() const { return third_; }
    std::uint64_t base() const { return base_; }    // with the displacement
    std::uint64_t index() const { return index_; }  // scaled
    std::size_t length() const { return length_; }

  private:
    unsigned mod() const { return modrm_ >> 6; }

    std::uint64_t general(unsigned number) const { return static_cast<std::uint64_t>(general_[kGeneral[number]]); }

    void read_address() {
        unsigned base = rm();
        bool has_base = true;
        if ((modrm_ & 7) == 4) {
            const unsigned sib = at_[length_++];
            const unsigned index = (sib >> 3 & 7u) + (extend_index_ ? 8u : 0u);
            if (index != 4) index_ = general(index) << (sib >> 6);
            base = (sib & 7u) + (extend_base_ ? 8u : 0u);
            has_base = (sib & 7) != 5 || mod() != 0;
        }
        std::int32_t displacement = 0;
        const bool is_relative = mod() == 0 && (modrm_ & 7) == 5;
        if (mod() == 1) {
            displacement = static_cast<std::int8_t>(at_[length_++]);
        } else if (mod() == 2 || is_relative || !has_base) {
            __builtin_memcpy(&displacement, at_ + length_, sizeof(displacement));
            length_ += sizeof(displacement);
        }
        if (is_relative) {
            base_ = reinterpret_cast<std::uint64_t>(at_) + length_;
        } else if (has_base) {
            base_ = general(base);
        }
        base_ += static_cast<std::uint64_t>(std::int64_t{displacement});
    }

    const std::uint8_t* at_;
    const greg_t* general_;
    bool extend_reg_ = false, extend_index_ = false, extend_base_ = false;
    unsigned third_ = 0, prefix_ = 0, opcode_ = 0, modrm_ = 0;
    std::uint64_t base_ = 0, index_ = 0;
    std::size_t length_ = 0;
};

// False if it is none of the instructions of tiles.
bool compute(const Instruction& instruction) {
    constexpr unsigned kNone = 0, k66 = 1, kF3 = 2, kF2 = 3;
    const unsigned prefix = instruction.prefix(), reg = instruction.reg();
    void* const memory = reinterpret_cast<void*>(instruction.base());
    const auto stride = static_cast<std::ptrdiff_t>(instruction.index());
    switch (instruction.length() == 0 ? 0 : instruction.opcode()) {
        case 0x49:
            if (instruction.has_memory()) {
                if (prefix != kNone || reg != 0) return false;  // LDTILECFG
                registers.configure(reinterpret_cast<void*>(instruction.base() + instruction.index()));
            } else if (prefix == kNone && reg == 0 && instruction.rm() == 0) {
                registers.release();
            } else if (prefix == kF2 && instruction.rm() == 0) {
                registers.clear(reg);
            } else {
                return false;
            }
            return true;
        case 0x4b:
            if (!instruction.has_sib()) return false;
            if (prefix == kF2 || prefix == k66) {
                registers.load(reg, memory, stride);
            } else if (prefix == kF3) {
                registers.store(reg, memory, stride);
            } else {
                return false;
            }
            return true;
        case 0x5e:
            if (instruction.has_memory()) return false;
            // Taken for unsigned, a negative byte is 256 too large.
            registers.multiply_add(reg, instruction.rm(), instruction.third(),
                                   !are_products_spoilt && (prefix == kF2 || prefix == kF3),
                                   prefix == kF2 || prefix == k66);
            return true;
        default:
            return false;
    }
}

void handle(int signal, siginfo_t*, void* context) {
    greg_t* const general = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
    const Instruction instruction(reinterpret_cast<const std::uint8_t*>(general[REG_RIP]), general);
    if (compute(instruction)) {
        general[REG_RIP] += static_cast<greg_t>(instruction.length());
        return;
    }
    // Something else: the program ends as if nobody had looked.
    struct sigaction standard = {};
    standard.sa_handler = SIG_DFL;
    sigaction(signal, &standard, nullptr);
}

}  // namespace

bool trap_tile_instructions() {
    struct sigaction action = {};
    action.sa_sigaction = &handle;
    action.sa_flags = SA_SIGINFO;
    return sigaction(SIGILL, &action, nullptr) == 0;
}

void spoil_tile_products(bool is_spoilt) {
    are_products_spoilt.store(is_spoilt);
}

}  // namespace sterna::testing

#else

namespace sterna::testing {

bool trap_tile_instructions() {
    return false;
}

void spoil_tile_products(bool) {}

}  // namespace sterna::testing

#endif
