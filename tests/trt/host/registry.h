// TensorRT's own registry, of a library that is loaded by hand.
#pragma once

#include "nvinfer.h"

#include <string>

namespace host
{

//! Loads TensorRT's library and, through its registry, the plugin's; returns the creator that the
//! registry then holds.
//! \throw std::runtime_error with what is missing
nvinfer1::IPluginCreatorV3One& creatorFromRegistry(char const* tensorrt, char const* plugin);

//! The first creator of a plugin's library, asked without TensorRT.
nvinfer1::IPluginCreatorV3One& creatorOf(char const* plugin);

//! What the plugin's library tells the logger of a library (fake_tensorrt.cpp) when it is asked for
//! a plugin without fields.
std::string messageThrough(char const* fakeTensorrt, char const* plugin);

} // namespace host
