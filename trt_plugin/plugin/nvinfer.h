// TensorRT's plugin interfaces: NVIDIA's own headers where CMake found them, else the project's
// declaration of the same.
#pragma once

#if LCCL_TENSORRT_HEADERS
#include <NvInferRuntime.h>
#else
#include "nvinfer_declarations.h"
#endif

#include <cstddef>

// What TensorRT 10 and 11 agree on and this plugin relies on, whichever header it was compiled
// with.
static_assert(sizeof(void*) == 8, "TensorRT is a 64-bit library");
static_assert(sizeof(nvinfer1::Dims) == 72 && offsetof(nvinfer1::Dims, d) == 8, "Dims has another layout");
static_assert(sizeof(nvinfer1::DimsExprs) == 72, "DimsExprs has another layout");
static_assert(sizeof(nvinfer1::PluginTensorDesc) == 88, "PluginTensorDesc has another layout");
static_assert(sizeof(nvinfer1::DynamicPluginTensorDesc) == 304, "DynamicPluginTensorDesc has another layout");
static_assert(sizeof(nvinfer1::PluginField) == 24, "PluginField has another layout");
static_assert(sizeof(nvinfer1::PluginFieldCollection) == 16, "PluginFieldCollection has another layout");
static_assert(sizeof(nvinfer1::InterfaceInfo) == 16, "InterfaceInfo has another layout");
static_assert(sizeof(nvinfer1::IPluginV3) == 8 && sizeof(nvinfer1::IPluginV3OneCore) == 8
        && sizeof(nvinfer1::IPluginV3OneBuildV2) == 8 && sizeof(nvinfer1::IPluginV3OneRuntime) == 8
        && sizeof(nvinfer1::IPluginCreatorV3One) == 8,
    "an interface holds more than its table of functions");
