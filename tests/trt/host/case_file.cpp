// Reads cases and writes results.
#include "case_file.h"

#include <cstdio>
#include <fstream>
#include <stdexcept>

namespace host
{
namespace
{

class Reader
{
public:
    explicit Reader(char const* path)
        : mStream(path, std::ios::binary)
    {
    }

    template <typename T>
    T number()
    {
        T value{};
        raw(&value, sizeof(value));
        return value;
    }

    Bytes bytes(int64_t count)
    {
        Bytes data(static_cast<size_t>(count));
        raw(data.data(), data.size());
        return data;
    }

    std::string text()
    {
        Bytes const data = bytes(number<int32_t>());
        return {data.begin(), data.end()};
    }

private:
    void raw(void* to, size_t count)
    {
        if (count > 0 && !mStream.read(static_cast<char*>(to), static_cast<std::streamsize>(count)))
        {
            throw std::runtime_error("the file of cases is not there, or cut off");
        }
    }

    std::ifstream mStream;
};

Tensor readTensor(Reader& in)
{
    Tensor tensor{};
    tensor.desc.dims.nbDims = in.number<int32_t>();
    for (int32_t i = 0; i < tensor.desc.dims.nbDims; ++i)
    {
        tensor.desc.dims.d[i] = in.number<int64_t>();
    }
    tensor.desc.type = static_cast<nvinfer1::DataType>(in.number<int32_t>());
    tensor.desc.format = static_cast<nvinfer1::TensorFormat>(in.number<int32_t>());
    tensor.memory = in.bytes(in.number<int64_t>());
    return tensor;
}

Case readCase(Reader& in)
{
    Case read;
    read.name = in.text();
    for (int32_t left = in.number<int32_t>(); left > 0; --left)
    {
        Field field;
        field.name = in.text();
        field.type = static_cast<nvinfer1::PluginFieldType>(in.number<int32_t>());
        field.length = in.number<int32_t>();
        field.data = in.bytes(in.number<int32_t>());
        read.fields.push_back(field);
    }
    for (int32_t left = in.number<int32_t>(); left > 0; --left)
    {
        read.inputs.push_back(readTensor(in));
    }
    read.output = readTensor(in);
    return read;
}

void writeText(std::ofstream& out, std::string const& text)
{
    int32_t const size = static_cast<int32_t>(text.size());
    out.write(reinterpret_cast<char const*>(&size), sizeof(size));
    out.write(text.data(), size);
}

} // namespace

std::vector<Case> readCases(char const* path)
{
    Reader in(path);
    std::vector<Case> cases;
    for (int32_t left = in.number<int32_t>(); left > 0; --left)
    {
        cases.push_back(readCase(in));
    }
    return cases;
}

void writeResults(char const* path, std::vector<Result> const& results)
{
    std::string const part = std::string(path) + ".part";
    std::ofstream out(part, std::ios::binary);
    for (Result const& result : results)
    {
        writeText(out, result.problem);
        writeText(out, result.facts);
        int32_t const count = static_cast<int32_t>(result.outputs.size());
        out.write(reinterpret_cast<char const*>(&count), sizeof(count));
        for (Output const& output : result.outputs)
        {
            writeText(out, output.label);
            int64_t const size = static_cast<int64_t>(output.memory.size());
            out.write(reinterpret_cast<char const*>(&size), sizeof(size));
            out.write(reinterpret_cast<char const*>(output.memory.data()), size);
        }
    }
    out.close();
    if (!out || std::rename(part.c_str(), path) != 0)
    {
        std::remove(part.c_str());
        throw std::runtime_error("the file of results cannot be written");
    }
}

} // namespace host
