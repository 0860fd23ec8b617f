// The tensor-core tiles: the table of configurations, the launcher's cases and, by CMake, the files
// in which kernels are compiled come from this one list.
#pragma once

//! Each X has: number, rows, columns, stages, warps along rows, warps along columns, blocks per
//! multiprocessor, registers per thread. Numbers and configuration ids never change, since engines
//! and timing caches keep them. New tiles get new numbers.
#define LCCL_MMA_TILES(X)                                                                                                      \
    X(1, 128, 128, 3, 2, 4, 1, 216)                                                                                            \
    X(2, 128, 64, 3, 2, 2, 2, 232)                                                                                             \
    X(3, 64, 64, 4, 2, 2, 3, 168)                                                                                              \
    X(4, 128, 128, 3, 2, 2, 2, 255)                                                                                            \
    X(5, 128, 256, 3, 2, 4, 1, 255)
