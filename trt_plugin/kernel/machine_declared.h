// The operations of machine.h, declared and not defined: for the host's side of a library that is
// built without nvcc. It reads constants of the CUDA kernels and runs none.
#pragma once

#include "machine.h"

namespace lccl::machine
{

int32_t threadIndex();
int32_t blockIndex();
int32_t gridSize();
void syncThreads();
void syncWarp();
void fenceDevice();
uint32_t bitsOfFloat(float value);
float floatFromBits(uint32_t bits);
float toFloat(float value);
float toFloat(Half value);
float toFloat(Bfloat16 value);
template <typename T>
T fromFloat(float value);
template <typename T>
uint32_t packPair(float first, float second);
template <typename T>
T loadGlobal(T const* address);
template <typename T>
T loadConstant(T const* address);
template <typename T>
T loadOwned(T const* address);
template <typename T>
void storeGlobal(T* address, T value);
int32_t atomicAddGlobal(int32_t* address, int32_t value);
uint32_t sharedBase();
template <typename T>
T loadShared(uint32_t address);
template <typename T>
void storeShared(uint32_t address, T value);
void cpAsyncCa16(uint32_t shared, void const* global, int32_t bytes);
void cpAsyncCg16(uint32_t shared, void const* global, int32_t bytes);
void cpAsyncCommitGroup();
template <int32_t kPending>
void cpAsyncWaitGroup();
float shuffleXor(float value, int32_t mask);
int32_t shuffleXor(int32_t value, int32_t mask);
int32_t shuffle(int32_t value, int32_t source);
uint32_t ballot(bool condition);
int32_t popcount(uint32_t bits);
void ldmatrixX4(uint32_t (&fragment)[4], uint32_t address);
template <typename T>
void mmaM16N8K16(float (&c)[4], uint32_t const (&a)[4], uint32_t b0, uint32_t b1);

} // namespace lccl::machine
