/* The C interface of the emulated machine: what surrounds a call of the kernels.
 *
 *   lccl_emulator_begin(seed, checked)
 *   lccl_emulator_register(...)          once for each tensor and for the workspace
 *   lccl_conv_launch(...)                with host pointers; one call or several in a row
 *   lccl_emulator_finish(report, size)
 *
 * What is registered must not touch: leave a few unregistered bytes between tensors, or one element
 * too far is in the next one. Stricter than a GPU: each thread calls the fence for what it wrote
 * itself, and a launch never writes what one of its threads reads by loadConstant. Looser: every
 * warp-wide operation orders memory as syncWarp does.
 *
 * The machine is one for the process: use it from one thread at a time. Before begin and after
 * finish it runs unchecked.
 */
// clang-format Language: C
#ifndef LCCL_EMULATOR_H
#define LCCL_EMULATOR_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What kernels may do with memory. A launch sees what earlier launches since begin have written. */
typedef enum lccl_emulator_access {
  LCCL_EMULATOR_READ_ONLY = 0,
  LCCL_EMULATOR_OUTPUT = 1,            /* each byte is written at most once; cannot be read before it is written */
  LCCL_EMULATOR_COMPLETE_OUTPUT = 2,   /* each byte is written exactly once */
  LCCL_EMULATOR_IN_PLACE = 3,          /* an output that holds the residual: each byte may be read before it is written */
  LCCL_EMULATOR_COMPLETE_IN_PLACE = 4, /* the same, each byte written exactly once */
  LCCL_EMULATOR_SCRATCH = 5            /* holds anything at begin; any number of writes */
} lccl_emulator_access;

/* Forgets memory and faults. `seed` orders blocks, warps and lanes. `checked` 0: nothing is tracked
 * but shared memory's bounds and what warps do together, copies land at once, and memory need not
 * be registered. */
__attribute__((visibility("default"))) void lccl_emulator_begin(uint64_t seed, int32_t checked);

/* Tells of memory that kernels may reach; it must not overlap what is registered already, nor start
 * at an odd address. 0 if it does not; the sentence is in finish's report. `bytes` may be 0. */
__attribute__((visibility("default"))) int32_t lccl_emulator_register(const void* address, size_t bytes, int32_t access,
                                                                      const char* name);

/* The number of different faults since begin, and the first of them in `report`, a sentence a line,
 * cut to `size` bytes (which may be 0). Memory may be freed after it. */
__attribute__((visibility("default"))) int32_t lccl_emulator_finish(char* report, size_t size);

#ifdef __cplusplus
}
#endif

#endif
