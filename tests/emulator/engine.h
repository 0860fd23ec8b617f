// What the emulated machine's functions call: the engine, without its insides.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace lccl::emulator
{

constexpr int32_t kMaxThreads = 1024;

//! Address of the block's first byte of shared memory: not 0, so that an offset that lost its base
//! is out of bounds.
constexpr uint32_t kSharedBase = 1024;
//! The most that any GPU lets a block opt in to.
constexpr int32_t kMaxSharedBytes = 227 * 1024;

//! How a thread reads global memory.
enum class ReadKind
{
    kGlobal,
    kConstant,
    kOwned,
    kCpAsyncCa,
    kCpAsyncCg
};

//! What the 32 lanes of a warp do together.
enum class Operation
{
    kSyncWarp,
    kShuffleFloat,
    kShuffleInt,
    kShuffleLane,
    kBallot,
    kLdmatrix,
    kMmaHalf,
    kMmaBfloat16
};

//! What inlined functions look at.
struct Fast
{
    bool checked;          //!< Whether every access is tracked.
    unsigned char* shared; //!< The running block's shared memory.
    uint32_t sharedBytes;
};
extern Fast fast;

//! Whether an access may go to shared memory without any check but its bounds.
inline bool reachesShared(uint32_t address, uint32_t bytes)
{
    uint64_t const offset = static_cast<uint64_t>(address) - kSharedBase; // Huge below the base.
    return !fast.checked && offset <= fast.sharedBytes && bytes <= fast.sharedBytes - offset;
}

//! One launch.
struct Launch
{
    char const* kernel; //!< Mangled name.
    void (*body)(void const* arguments);
    void const* arguments;
    int32_t threads;
    int32_t blocks;
    int32_t sharedBytes;
};

//! Runs all blocks, one after the other in the seed's order.
cudaError_t runGrid(Launch const& launch);

// The rest is called by the kernels' threads. Errors go to the report; what cannot be read is zero,
// what cannot be written is not.

int32_t threadIndex();
int32_t blockIndex();
int32_t gridSize();
void syncThreads();
void syncWarp();
void fenceDevice();

float floatOfHalf(uint16_t bits);
uint16_t halfOfFloat(float value);

void readGlobal(void* value, void const* address, uint32_t bytes, ReadKind kind);
void writeGlobal(void* address, void const* value, uint32_t bytes);
int32_t addGlobal(int32_t* address, int32_t value);

void readShared(void* value, uint32_t address, uint32_t bytes);
void writeShared(uint32_t address, void const* value, uint32_t bytes);

void startCopy(uint32_t shared, void const* global, int32_t bytes, ReadKind kind);
void cpAsyncCommitGroup();
void cpAsyncWaitGroup(int32_t pending);

uint32_t shuffleXor(Operation operation, uint32_t bits, int32_t mask);
uint32_t ballot(bool condition);
void ldmatrixX4(uint32_t* fragment, uint32_t address);
void mmaM16N8K16(Operation operation, float* c, uint32_t const* a, uint32_t b0, uint32_t b1);

} // namespace lccl::emulator
