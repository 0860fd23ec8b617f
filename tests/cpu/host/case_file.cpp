// Reads cases and writes results.
#include "case_file.h"

#include <cstring>
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

    template <typename T>
    std::vector<T> array(int64_t count)
    {
        std::vector<T> values(static_cast<size_t>(count));
        raw(values.data(), values.size() * sizeof(T));
        return values;
    }

    std::string text()
    {
        std::vector<char> const data = array<char>(number<int32_t>());
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

Case readCase(Reader& in)
{
    Case read{};
    read.name = in.text();
    read.params = in.number<lccl_cpu_params>();
    for (int32_t slot = 0; slot < kInputs; ++slot)
    {
        int64_t const count = in.number<int64_t>();
        read.given[slot] = count >= 0;
        read.inputs[slot] = in.array<float>(count >= 0 ? count : 0);
    }
    read.outputs = in.number<int64_t>();
    read.runs = in.array<Run>(in.number<int32_t>());
    return read;
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

ResultFile::ResultFile(char const* path)
    : mStream(path, std::ios::binary)
{
}

template <typename T>
void ResultFile::number(T value)
{
    bytes(&value, sizeof(value));
}

void ResultFile::bytes(void const* data, size_t size)
{
    mStream.write(static_cast<char const*>(data), static_cast<std::streamsize>(size));
}

void ResultFile::add(std::vector<Result> const& results)
{
    std::vector<float> const* last = nullptr;
    for (Result const& result : results)
    {
        for (int32_t value : {result.supported, result.status, result.callersAgree, result.intact})
        {
            number(value);
        }
        for (int64_t value : {result.packedBytes, result.workspaceBytes, result.active})
        {
            number(value);
        }
        number(static_cast<int32_t>(result.reason.size()));
        bytes(result.reason.data(), result.reason.size());
        size_t const size = result.y.size() * sizeof(float);
        bool const same = last != nullptr && last->size() == result.y.size()
            && (size == 0 || std::memcmp(last->data(), result.y.data(), size) == 0);
        number(same ? int64_t{-1} : static_cast<int64_t>(result.y.size()));
        bytes(result.y.data(), same ? 0 : size);
        last = &result.y;
    }
}

void ResultFile::close()
{
    mStream.close();
    if (!mStream)
    {
        throw std::runtime_error("the file of results cannot be written");
    }
}

} // namespace host
