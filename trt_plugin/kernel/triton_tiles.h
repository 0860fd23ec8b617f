// The configurations of the Triton kernels, as exporter/lccl/backends/torch/triton/configurations.py
// has them; a test holds the two together.
#pragma once

//! Each X has: number, kernel, rows, columns, elements of the reduction, warps, stages, bytes of the
//! largest type, registers per thread. Numbers and configuration ids never change, since engines and
//! timing caches keep them.
#define LCCL_TRITON_ROWS(X)                                                                                                    \
    X(6, "rows", 128, 256, 64, 8, 3, 2, 255)                                                                                   \
    X(7, "rows", 128, 128, 64, 8, 3, 2, 255)                                                                                   \
    X(1, "rows", 128, 64, 64, 4, 4, 2, 255)                                                                                    \
    X(2, "rows", 64, 64, 64, 4, 3, 2, 255)                                                                                     \
    X(3, "rows", 64, 32, 32, 4, 3, 4, 255)
#define LCCL_TRITON_BOXES(X)                                                                                                   \
    X(8, "boxes", 128, 256, 64, 8, 3, 2, 255)                                                                                  \
    X(4, "boxes", 128, 128, 64, 8, 4, 2, 255)                                                                                  \
    X(9, "boxes", 128, 128, 64, 8, 3, 2, 255)                                                                                  \
    X(5, "boxes", 128, 64, 64, 4, 4, 2, 255)
