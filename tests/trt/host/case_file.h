// What the tests ask of the host program and what it answers: two binary files, described in
// tests/support/hosts/plugin.py.
#pragma once

#include "nvinfer.h"

#include <cstdint>
#include <string>
#include <vector>

namespace host
{

using Bytes = std::vector<unsigned char>;

struct Field
{
    std::string name;
    nvinfer1::PluginFieldType type;
    int32_t length;
    Bytes data;
};

struct Tensor
{
    nvinfer1::PluginTensorDesc desc;
    Bytes memory;
};

//! One layer, with everything that TensorRT would know of it.
struct Case
{
    std::string name;
    std::vector<Field> fields;
    std::vector<Tensor> inputs;
    Tensor output; //!< Memory of its size, poisoned.
};

struct Output
{
    std::string label;
    Bytes memory;
};

struct Result
{
    std::string problem; //!< Empty, or which call failed and how.
    std::string facts;   //!< JSON
    std::vector<Output> outputs;
};

//! \throw std::runtime_error: the file is not there or is cut off.
std::vector<Case> readCases(char const* path);

//! Writes the file as a whole or not at all.
//! \throw std::runtime_error: it cannot be written.
void writeResults(char const* path, std::vector<Result> const& results);

} // namespace host
