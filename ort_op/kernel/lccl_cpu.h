/* The C interface of the CPU kernels of lccl::LCCLConv, version 1. All float32.
 *
 *   logit   = gate_bias + sum(gate_weight * x)
 *   gmap    = min(max(gate_slope * logit, 0), gate_max) * gate, and 0 where that is not > gate_threshold
 *   g[p]    = gmap[n, ho / G, wo / G]                              G = grid
 *   u[p,k]  = leaky(bias[k] + sum(weight[k] * x around p), activation_alpha)
 *   v[p,k]  = u[p,k] * g[p] if g[p] > 0 else 0                     not computed where g[p] is not > 0
 *   y[p,k]  = leaky(v[p,k] * post_scale[k] + post_bias[k] + residual[p,k], post_alpha)
 *
 * No function allocates memory, starts threads, prints or keeps state between calls; all may be
 * called from several threads. Results are bitwise the same for any number of threads and any way
 * in which the caller runs them, as long as weights are finite: whether a tap that is padding is
 * multiplied, 0 times the weight, or left out depends on how a call is cut.
 */
// clang-format Language: C
#ifndef LCCL_CPU_H
#define LCCL_CPU_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Raised with every change of a struct below; the functions refuse another caller's. */
#define LCCL_CPU_ABI 3

/* One call. Tensors are dense, row-major and need no alignment beyond float's; nothing is read or
 * written outside of them. */
typedef struct lccl_cpu_params {
  uint32_t abi;                              /* LCCL_CPU_ABI */
  int32_t n, c, h, w;                        /* x: [n, c, h, w], or [n, h, w, c]; n may be 0 */
  int32_t k, r, s;                           /* weight: [k, r, s, c]; r and s from 1 to 7 */
  int32_t strides[2], pads[4], dilations[2]; /* pads: top, left, bottom, right */
  int32_t gate_r, gate_s;                    /* gate_weight: [1, gate_r, gate_s, c] */
  int32_t gate_strides[2], gate_pads[4], gate_dilations[2];
  int32_t grid;                            /* G, the side of a block of pixels that shares a gate value; from 1 */
  int32_t post_scale_size, post_bias_size; /* 1 or k; 0: 1 and 0 for all channels */
  int32_t has_gate_weight;                 /* 0: logit is gate_bias everywhere */
  int32_t has_gate;                        /* 0: the map is 1 */
  int32_t has_residual;                    /* 0: the residual is 0 */
  int32_t x_channels_last;                 /* 1: x is [n, h, w, c] */
  int32_t y_channels_last;                 /* 1: y and residual are [n, ho, wo, k] */
  float activation_alpha, gate_slope, gate_max, gate_threshold, post_alpha;
  float density;   /* expected fraction of active pixels: decides how work is cut, never what comes out; -1: unknown */
  int32_t threads; /* how many threads the caller's `parallel` has, from 1 */

  const float* x;
  const void* packed_weight; /* by lccl_cpu_pack, of the same instruction set */
  const float* bias;         /* [k] */
  const float* gate_weight;  /* [1, gate_r, gate_s, c]; null without has_gate_weight */
  const float* gate_bias;    /* [1]; null: 1 */
  const float* gate;         /* [n, 1, ceil(ho / G), ceil(wo / G)]; null without has_gate */
  const float* post_scale;   /* [post_scale_size] */
  const float* post_bias;    /* [post_bias_size] */
  const float* residual;     /* as y; null without has_residual */
  float* y;                  /* [n, k, ho, wo], or [n, ho, wo, k]; must not overlap any other tensor */
  int64_t* active;           /* [1], out: how many of the n * ho * wo output pixels were active; null: not wanted */
} lccl_cpu_params;

/* One way to compile the kernels: the instructions they use. */
typedef struct lccl_cpu_isa {
  int32_t id;           /* from 1, never reused */
  const char* name;     /* "avx512", "avx2", "neon" or "portable" */
  int32_t vector_bytes; /* of one register */
  int32_t tile_rows;    /* output pixels of the micro-kernel */
  int32_t tile_columns; /* output channels of the micro-kernel */
} lccl_cpu_isa;

enum { LCCL_CPU_PORTABLE = 1, LCCL_CPU_NEON = 2, LCCL_CPU_AVX2 = 3, LCCL_CPU_AVX512 = 4 };

/* The instruction sets in this library, best first; the portable one is always there. */
int32_t lccl_cpu_isa_count(void);

/* Instruction set `index` of the list, or null. */
const lccl_cpu_isa* lccl_cpu_isa_at(int32_t index);

/* 1 if this machine can run the instruction set with that id, else 0. */
int32_t lccl_cpu_isa_runs(int32_t isa);

/* The id of the best instruction set that this machine runs. */
int32_t lccl_cpu_choose(void);

/* 1 if the instruction set can run the call, else 0 and a sentence in `reason` (cut to
 * `reason_size`, which may be 0). With h and w 0: whether it can run calls that are like this one
 * but for h and w. Reads no tensor pointer. */
int32_t lccl_cpu_supported(const lccl_cpu_params* params, int32_t isa, char* reason, size_t reason_size);

/* Bytes of packed weights; depends on k, r, s, c and the instruction set only. 0 where there are no
 * such weights. */
size_t lccl_cpu_packed_size(const lccl_cpu_params* params, int32_t isa);

/* Lays out weight, [k, r, s, c], as the instruction set reads it; `packed` is aligned to 64 bytes. */
void lccl_cpu_pack(const lccl_cpu_params* params, int32_t isa, const float* weight, void* packed);

/* Bytes of workspace for the call; 0 if the instruction set cannot run it. */
size_t lccl_cpu_workspace(const lccl_cpu_params* params, int32_t isa);

/* Calls task(data, i) once for each i below count, on any threads, and returns when all have
 * returned. */
typedef void (*lccl_cpu_parallel)(void* pool, size_t count, void (*task)(void* data, size_t index), void* data);

typedef enum lccl_cpu_status {
  LCCL_CPU_OK = 0,
  LCCL_CPU_NOT_SUPPORTED = 1,   /* lccl_cpu_supported says why */
  LCCL_CPU_INVALID_POINTER = 2, /* null where data is needed or the other way round, or not aligned as said */
  LCCL_CPU_SHORT_WORKSPACE = 3
} lccl_cpu_status;

/* Computes y. `workspace` is aligned to 64 bytes and may hold anything; `parallel` may be null:
 * everything on this thread. Returns an lccl_cpu_status. */
int32_t lccl_cpu_run(const lccl_cpu_params* params, int32_t isa, void* workspace, size_t workspace_size,
                     lccl_cpu_parallel parallel, void* pool);

#ifdef __cplusplus
}
#endif

#endif
