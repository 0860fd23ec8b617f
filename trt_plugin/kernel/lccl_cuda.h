/* The C interface of the CUDA kernels of lccl::LCCLConv, version 1.
 *
 *   logit   = gate_bias + sum(gate_w * x)
 *   gmap    = min(max(gate_slope * logit, 0), gate_max) * gate, and 0 where that is not > gate_threshold
 *   g[p]    = gmap[n, ho / G, wo / G]                              G = grid
 *   u[p,k]  = leaky(bias[k] + sum(w[k] * x around p), activation_alpha)
 *   v[p,k]  = u[p,k] * g[p] if g[p] > 0 else 0                     not computed where g[p] is not > 0
 *   y[p,k]  = leaky(v[p,k] * post_scale[k] + post_bias[k] + residual[p,k], post_alpha)
 *
 * No function allocates device memory, synchronises, prints or keeps state between calls; all may be called from several threads.
 * lccl_conv_launch may be captured into a CUDA graph. Results do not depend on timing: they are bitwise the same run to run.
 */
#ifndef LCCL_CUDA_H
#define LCCL_CUDA_H

#include <cuda_runtime_api.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define LCCL_API __attribute__((visibility("default")))
#else
#define LCCL_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Raised with every change of a struct below; a library refuses another caller's. */
#define LCCL_CUDA_ABI 2

typedef enum lccl_dtype { LCCL_FLOAT32 = 0, LCCL_FLOAT16 = 1, LCCL_BFLOAT16 = 2 } lccl_dtype;

/* How x, residual and y lie in memory.
 * LCCL_NHWC: [n, h, w, ceil8(channels)]: channels padded to a multiple of 8 (TensorRT's kHWC8). Padding of x and residual
 *            is never read as a value; padding of y is written as 0.
 * LCCL_NCHW: [n, channels, h, w] (TensorRT's kLINEAR); float32 only. */
typedef enum lccl_layout { LCCL_NHWC = 0, LCCL_NCHW = 1 } lccl_layout;

/* One call. Pointers are device pointers; x, weight, gate_weight, residual, y and the workspace are aligned to 16 bytes.
 * T is dtype. */
typedef struct lccl_conv_params {
  uint32_t abi;        /* LCCL_CUDA_ABI */
  int32_t dtype;       /* lccl_dtype */
  int32_t layout;      /* lccl_layout */
  int32_t n, c, h, w;  /* x: [n, c, h, w] in `layout`; n may be 0 */
  int32_t k, r, s;     /* weight: [k, r, s, c]; r and s from 1 to 7 */
  int32_t strides[2], pads[4], dilations[2]; /* pads: top, left, bottom, right */
  int32_t gate_r, gate_s;                    /* gate_weight: [1, gate_r, gate_s, c] */
  int32_t gate_strides[2], gate_pads[4], gate_dilations[2];
  int32_t grid;                                   /* G, the side of a block of pixels that shares a gate value; 1 to 16 */
  int32_t post_scale_size, post_bias_size;        /* 1 or k; 0 with a null pointer */
  float activation_alpha, gate_slope, gate_max, gate_threshold, post_alpha;
  float density; /* expected fraction of active cells, for lccl_conv_choose and simulate_gate; -1: unknown, taken as 0.5 */
  int32_t simulate_gate; /* 0: the op. 1: for timing on inputs that mean nothing: gates are computed, then replaced by 1 in
                            about `density` of the cells, in clusters as gates have them, and by 0 elsewhere */

  const void* x;            /* T, in `layout` */
  const void* weight;       /* T [k, r, s, c], not padded */
  const float* bias;        /* [k] */
  const void* gate_weight;  /* T [1, gate_r, gate_s, c], not padded; null: logit is gate_bias everywhere */
  const float* gate_bias;   /* [1]; null: 1 */
  const void* gate;         /* T [n, 1, ceil(ho / G), ceil(wo / G)]; null: 1 */
  const float* post_scale;  /* [post_scale_size]; null: 1 */
  const float* post_bias;   /* [post_bias_size]; null: 0 */
  const void* residual;     /* as y, may be y itself (then a closed pixel to which nothing else is done is not written); null: 0 */
  void* y;                  /* T, in `layout`; must not overlap x */
} lccl_conv_params;

/* What planning needs to know of a GPU. */
typedef struct lccl_device {
  int32_t compute_capability;  /* 90 for 9.0 */
  int32_t sm_count;
  int32_t shared_per_block;    /* bytes a block may opt in to */
  int32_t shared_per_sm;       /* bytes */
} lccl_device;

/* How a configuration finds its work. */
typedef enum lccl_family {
  LCCL_DENSE = 1,  /* every pixel computed, the gate applied */
  LCCL_BLOCK = 2,  /* G >= 2: blocks of active pixels, from a list */
  LCCL_PIXEL = 3   /* G = 1: active pixels, from a list */
} lccl_family;

/* How a configuration multiplies. */
typedef enum lccl_engine {
  LCCL_SIMT = 0,      /* CUDA cores, float32 arithmetic, any shape and layout */
  LCCL_MMA = 1,       /* mma.sync and cp.async, from sm_80 */
  LCCL_WGMMA_TMA = 2, /* reserved: block lists by TMA boxes and wgmma, sm_90a */
  LCCL_PATCH = 3,     /* reserved: patch in shared memory, rows to wgmma from registers, sm_90a */
  LCCL_WGMMA = 4      /* reserved: gathered rows and wgmma, sm_90a */
} lccl_engine;

/* One row of the table of configurations. */
typedef struct lccl_conv_config {
  int32_t id;          /* never 0, never reused: engines and timing caches keep it */
  const char* name;
  int32_t family;      /* lccl_family */
  int32_t engine;      /* lccl_engine */
  int32_t built;       /* 0: the id is reserved, the kernel is not in this version */
  int32_t tile_m, tile_n, tile_k, stages, warps_m, warps_n;
  int32_t shared_bytes;   /* dynamic, per block */
  int32_t max_registers;  /* per thread, on every architecture; held by a test */
  int32_t blocks_per_sm;  /* the most that registers allow */
} lccl_conv_config;

LCCL_API int32_t lccl_conv_config_count(void);

/* Row `index` of the table, or null. */
LCCL_API const lccl_conv_config* lccl_conv_config_at(int32_t index);

/* Fills in what planning needs to know of a CUDA device; `ordinal` -1: the calling thread's current one. */
LCCL_API cudaError_t lccl_device_query(int32_t ordinal, lccl_device* device);

/* 1 if the configuration can run the call, else 0 and a sentence in `reason` (cut to `reason_size`, which may be 0).
 * Reads no tensor pointer. config 0 asks whether any can. */
LCCL_API int32_t lccl_conv_supported(const lccl_conv_params* params, const lccl_device* device, int32_t config, char* reason,
                                     size_t reason_size);

/* The configuration with the smallest predicted time, a pure function of sizes, density and device; 0 if none can run.
 * lccl_conv_predict gives the prediction. */
LCCL_API int32_t lccl_conv_choose(const lccl_conv_params* params, const lccl_device* device);

/* Predicted microseconds of a configuration, a model and no measurement; negative if it cannot run the call. */
LCCL_API double lccl_conv_predict(const lccl_conv_params* params, const lccl_device* device, int32_t config);

/* Bytes of workspace, which may hold anything at entry; never smaller for larger n, h or w. */
LCCL_API size_t lccl_conv_workspace(const lccl_conv_params* params, const lccl_device* device, int32_t config);

/* Loads the code of the call's kernels on the current device, which the first launch would do otherwise; cudaErrorNoKernelImageForDevice
 * or cudaErrorInvalidDeviceFunction: this library was built for other GPUs. Reads no tensor pointer. */
LCCL_API cudaError_t lccl_conv_load(const lccl_conv_params* params, const lccl_device* device, int32_t config);

/* Enqueues the call.
 *
 * cudaErrorNotSupported: lccl_conv_supported says why. cudaErrorInvalidValue: a null pointer where data is needed, one that
 * is not aligned, or too small a workspace. Otherwise the error of the first launch that failed. */
LCCL_API cudaError_t lccl_conv_launch(const lccl_conv_params* params, const lccl_device* device, int32_t config, void* workspace,
                                      size_t workspace_size, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
