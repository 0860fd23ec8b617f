/* The C interface of the CUDA kernels of lccl::LCCLConv, version 1.
 *
 *   logit   = gate_bias + sum(gate_w * x)
 *   gmap    = min(max(gate_slope * logit, 0), gate_max) * gate, and 0 where that is not > gate_threshold
 *   g[p]    = gmap[n, ho / G, wo / G]                              G = grid
 *   u[p,k]  = leaky(bias[k] + sum(w[k] * x around p), activation_alpha)
 *   v[p,k]  = u[p,k] * g[p] if g[p] > 0 else 0                     not computed where g[p] is not > 0
 *   y[p,k]  = leaky(v[p,k] * post_scale[k] + post_bias[k] + residual[p,k], post_alpha)
 *
 * No function allocates device memory, synchronises, prints or keeps state between calls but for
 * the code that was loaded; all may be called from several threads. lccl_conv_launch may be captured into a CUDA graph. Results do
 * not depend on timing: they are bitwise the same run to run.
 */
// clang-format Language: C
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
#define LCCL_CUDA_ABI 4

typedef enum lccl_dtype { LCCL_FLOAT32 = 0, LCCL_FLOAT16 = 1, LCCL_BFLOAT16 = 2 } lccl_dtype;

/* How x, residual and y lie in memory.
 * LCCL_NHWC: [n, h, w, ceil8(channels)]: channels padded to a multiple of 8 (TensorRT's kHWC8).
 * Padding of x and residual
 *            is never read as a value; padding of y is written as 0.
 * LCCL_NCHW: [n, channels, h, w] (TensorRT's kLINEAR); float32 only. */
typedef enum lccl_layout { LCCL_NHWC = 0, LCCL_NCHW = 1 } lccl_layout;

/* Kernels of a call, as bits. */
typedef enum lccl_kernel {
  LCCL_KERNEL_PACK = 1, /* pads the channels of the weights; only where c is no multiple of 8 */
  LCCL_KERNEL_GATE = 2, /* the gate of each cell, and the lists of active and inactive cells */
  LCCL_KERNEL_MAIN = 4  /* multiplies the rows of active cells, fills the others */
} lccl_kernel;

/* One call. T is dtype. Sizes, numbers and the three flags say what it is; only lccl_conv_check and
 * lccl_conv_launch look at pointers, which are device pointers: x, weight, gate_weight, residual, y
 * and the workspace are aligned to 16 bytes. */
typedef struct lccl_conv_params {
  uint32_t abi;                              /* LCCL_CUDA_ABI */
  int32_t dtype;                             /* lccl_dtype */
  int32_t layout;                            /* lccl_layout */
  int32_t n, c, h, w;                        /* x: [n, c, h, w] in `layout`; n may be 0 */
  int32_t k, r, s;                           /* weight: [k, r, s, c]; r and s from 1 to 7 */
  int32_t strides[2], pads[4], dilations[2]; /* pads: top, left, bottom, right */
  int32_t gate_r, gate_s;                    /* gate_weight: [1, gate_r, gate_s, c] */
  int32_t gate_strides[2], gate_pads[4], gate_dilations[2];
  int32_t grid;                            /* G, the side of a block of pixels that shares a gate value; 1 to 16 */
  int32_t post_scale_size, post_bias_size; /* 1 or k; 0: 1 and 0 for all channels */
  int32_t has_gate_weight;                 /* 0: logit is gate_bias everywhere */
  int32_t has_gate;                        /* 0: the map is 1 */
  int32_t has_residual;                    /* 0: the residual is 0 */
  float activation_alpha, gate_slope, gate_max, gate_threshold, post_alpha;
  float density; /* expected fraction of active cells, for lccl_conv_choose and simulate_gate; -1: unknown, taken as 0.5 */
  int32_t simulate_gate; /* 0: the op. 1: for timing on inputs that mean nothing: gates are computed, then replaced by 1 in
                            about `density` of the cells, in clusters as gates have them, and by 0 elsewhere */
  int32_t kernels; /* 0: the op. For timing, bits of lccl_kernel: only these run, on what a whole call left in the workspace */

  const void* x;           /* T, in `layout` */
  const void* weight;      /* T [k, r, s, c], not padded */
  const float* bias;       /* [k] */
  const void* gate_weight; /* T [1, gate_r, gate_s, c], not padded; null without has_gate_weight */
  const float* gate_bias;  /* [1]; null: 1 */
  const void* gate;        /* T [n, 1, ceil(ho / G), ceil(wo / G)]; null without has_gate */
  const float* post_scale; /* [post_scale_size] */
  const float* post_bias;  /* [post_bias_size] */
  const void* residual;    /* as y, may be y itself (then a closed pixel to which nothing else is done is not written); null
                               without has_residual */
  void* y;                 /* T, in `layout`; must not overlap x */
} lccl_conv_params;

/* What planning needs to know of a GPU. */
typedef struct lccl_device {
  int32_t compute_capability; /* 90 for 9.0 */
  int32_t sm_count;
  int32_t shared_per_block; /* bytes a block may opt in to */
  int32_t shared_per_sm;    /* bytes */
} lccl_device;

/* How a configuration finds its work. */
typedef enum lccl_family {
  LCCL_DENSE = 1, /* every pixel computed, the gate applied */
  LCCL_BLOCK = 2, /* G >= 2: blocks of active pixels, from a list */
  LCCL_PIXEL = 3  /* G = 1: active pixels, from a list */
} lccl_family;

/* How a configuration multiplies. 2 to 4 were given away for kernels that never came: they are not
 * used again. */
typedef enum lccl_math {
  LCCL_SIMT = 0,  /* CUDA cores, float32, either layout */
  LCCL_MMA = 1,   /* mma.sync and cp.async, float16 and bfloat16, from sm_80 */
  LCCL_TRITON = 5 /* what Triton compiled for the architecture: wgmma on 9.0, tcgen05 on 10.0, else mma.sync */
} lccl_math;

/* One row of the table of configurations. */
typedef struct lccl_conv_config {
  int32_t id; /* never 0, never reused: engines and timing caches keep it */
  const char* name;
  int32_t family;                                           /* lccl_family */
  int32_t math;                                             /* lccl_math */
  int32_t tile_m, tile_n, tile_k, stages, warps_m, warps_n; /* of LCCL_TRITON: warps_m is all warps */
  int32_t shared_bytes;  /* dynamic, per block; of LCCL_TRITON the most on any architecture */
  int32_t max_registers; /* per thread, on every architecture; a test holds it, of LCCL_TRITON's in full by `make thorough` */
  int32_t blocks_per_sm; /* the most that registers allow */
} lccl_conv_config;

LCCL_API int32_t lccl_conv_config_count(void);

/* Row `index` of the table, or null. */
LCCL_API const lccl_conv_config* lccl_conv_config_at(int32_t index);

/* Fills in what planning needs to know of a CUDA device; `ordinal` -1: the calling thread's current
 * one. */
LCCL_API cudaError_t lccl_device_query(int32_t ordinal, lccl_device* device);

/* Blocks of a configuration's main kernel that run at once on the device; 0 if there is no such
 * configuration. */
LCCL_API int32_t lccl_conv_resident_blocks(const lccl_device* device, int32_t config);

/* 1 if the configuration can run the call on the device, and this library holds its code for it,
 * else 0 and a sentence in `reason` (cut to `reason_size`, which may be 0). config 0 asks whether any can. */
LCCL_API int32_t lccl_conv_supported(const lccl_conv_params* params, const lccl_device* device, int32_t config, char* reason,
                                     size_t reason_size);

/* The configuration with the smallest predicted time, a pure function of sizes, density and device;
 * 0 if none can run. lccl_conv_predict gives the prediction. */
LCCL_API int32_t lccl_conv_choose(const lccl_conv_params* params, const lccl_device* device);

/* Constants of the model behind predictions. Rates are of one second. */
typedef struct lccl_rates {
  double tensor_flops; /* tensor cores with float32 sums, of one multiprocessor */
  double core_flops;   /* CUDA cores, float32, of one multiprocessor */
  double tile_base;    /* share of tensor_flops that a tile keeps: tile_base + tile_reuse * reuse, at most tile_most */
  double tile_reuse;   /* for each element that a warp uses again: 16 for 32x32, 32 for 64x64 */
  double tile_most;
  double cache_bytes;         /* L2, of one multiprocessor */
  double dram_bytes;          /* of the device */
  double first_launch;        /* seconds until the first kernel of a call runs */
  double next_launch;         /* seconds between one kernel's end and the next one's begin */
  double gate_latency;        /* seconds of the gate kernel's longest chain, however little it reads */
  double main_latency;        /* seconds of the main kernel before its first product and after its last */
  double gate_bytes;          /* x that the gate kernel reads, of one multiprocessor: what its loads under way allow */
  double fill_bytes;          /* y that is filled, of one multiprocessor: what the instructions of a store allow */
  double fill_residual_bytes; /* the same where there is a residual */
  double rows_flops;          /* what the tensor cores of one multiprocessor give the Triton kernel of gathered rows */
  double boxes_flops;         /* what they give that of boxes */
} lccl_rates;

/* The model's constants for a device. */
LCCL_API void lccl_conv_rates(const lccl_device* device, lccl_rates* rates);

/* Predicted microseconds of a configuration, or of the kernels that the call names, a model and no
 * measurement; negative if it cannot run the call. `rates` null: those of the device. */
LCCL_API double lccl_conv_predict(const lccl_conv_params* params, const lccl_device* device, int32_t config,
                                  const lccl_rates* rates);

/* Bytes of workspace, which may hold anything at entry; never smaller for larger n, h or w. */
LCCL_API size_t lccl_conv_workspace(const lccl_conv_params* params, const lccl_device* device, int32_t config);

/* Loads the code of the call's kernels on the current device, which the first launch would do
 * otherwise; cudaErrorNoKernelImageForDevice or cudaErrorInvalidDeviceFunction: this library was
 * built for other GPUs. `device` is the one that the call is planned for, and may be another one. */
LCCL_API cudaError_t lccl_conv_load(const lccl_conv_params* params, const lccl_device* device, int32_t config);

/* 1 if lccl_conv_launch would start the call with these pointers, else 0 and a sentence in
 * `reason`: an unsupported call, a pointer that is null or not aligned, a workspace that is too
 * small. */
LCCL_API int32_t lccl_conv_check(const lccl_conv_params* params, const lccl_device* device, int32_t config,
                                 const void* workspace, size_t workspace_size, char* reason, size_t reason_size);

/* Enqueues the call on the current device. `device`, for which it is planned and its workspace
 * sized, may be another one; code is that of the current one. cudaErrorNotSupported:
 * lccl_conv_supported says why. cudaErrorNoKernelImageForDevice: so it does of the current device.
 * cudaErrorInvalidValue: lccl_conv_check says why. Otherwise the error of the first launch that failed. */
LCCL_API cudaError_t lccl_conv_launch(const lccl_conv_params* params, const lccl_device* device, int32_t config,
                                      void* workspace, size_t workspace_size, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
