// Leads a plugin through its life for each case of a file.
//
//   lccl_trt_host CASES RESULTS                           the plugin that is linked in
//   lccl_trt_host CASES RESULTS TENSORRT.so PLUGIN.so     the plugin's library, loaded by TensorRT's registry in this process
//   lccl_trt_host CASES RESULTS PLUGIN.so                 the plugin's library without TensorRT
//   lccl_trt_host --WALK CASES RESULTS ...                another walk than through a life: engine, workspace, pointers, gpus
//   lccl_trt_host --logger FAKE.so PLUGIN.so              what the plugin tells the logger of fake_tensorrt.cpp
//   lccl_trt_host --fields [PLUGIN.so]                    JSON: names, types, defaults of the fields, as getFieldNames lists them

#include "case_file.h"
#include "device.h"
#include "edges.h"
#include "gpus.h"
#include "lifecycle.h"
#include "registry.h"

#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <vector>

#if LCCL_HOST_LINKED
extern "C" nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count);
#endif

namespace
{

using Words = std::vector<char const*>;
using Walk = host::Result (*)(nvinfer1::IPluginCreatorV3One&, host::Case const&);

struct NamedWalk
{
    char const* option;
    Walk walk;
};

constexpr NamedWalk kWalks[] = {
    {"--engine", host::runEngine},
    {"--workspace", host::keepWorkspace},
    {"--pointers", host::misplacePointers},
#if LCCL_HOST_LINKED
    {"--gpus", host::changeGpus},
#endif
};

//! The walk that the first word names, which is taken away.
Walk takeWalk(Words& words)
{
    for (NamedWalk const& named : kWalks)
    {
        if (!words.empty() && std::strcmp(words[0], named.option) == 0)
        {
            words.erase(words.begin());
            return named.walk;
        }
    }
    return host::live;
}

//! \param libraries paths of the plugin's library, and of TensorRT's before it
nvinfer1::IPluginCreatorV3One& findCreator(Words const& libraries)
{
#if LCCL_HOST_LINKED
    int32_t count = 0;
    if (libraries.empty())
    {
        return static_cast<nvinfer1::IPluginCreatorV3One&>(*getCreators(count)[0]);
    }
#endif
    switch (libraries.size())
    {
    case 1: return host::creatorOf(libraries[0]);
    case 2: return host::creatorFromRegistry(libraries[0], libraries[1]);
    default: throw std::runtime_error("a plugin's library must be named, and before it TensorRT's or none");
    }
}

void printField(nvinfer1::PluginField const& field, bool first)
{
    std::printf(
        "%s{\"name\": \"%s\", \"type\": %d, \"values\": [", first ? "" : ", ", field.name, static_cast<int>(field.type));
    for (int32_t i = 0; i < field.length; ++i)
    {
        char const* const comma = i > 0 ? ", " : "";
        switch (field.type)
        {
        case nvinfer1::PluginFieldType::kINT32: std::printf("%s%d", comma, static_cast<int32_t const*>(field.data)[i]); break;
        case nvinfer1::PluginFieldType::kFLOAT32:
            std::printf("%s%.9g", comma, static_cast<double>(static_cast<float const*>(field.data)[i]));
            break;
        default: std::printf("%s%d", comma, static_cast<char const*>(field.data)[i]);
        }
    }
    std::printf("]}");
}

void printFields(nvinfer1::IPluginCreatorV3One& creator)
{
    nvinfer1::PluginFieldCollection const* const fields = creator.getFieldNames();
    std::printf("[");
    for (int32_t i = 0; i < fields->nbFields; ++i)
    {
        printField(fields->fields[i], i == 0);
    }
    std::printf("]\n");
}

} // namespace

int main(int argc, char** argv)
{
    try
    {
        Words words(argv + 1, argv + argc);
        if (words.size() == 3 && std::strcmp(words[0], "--logger") == 0)
        {
            std::printf("%s\n", host::messageThrough(words[1], words[2]).c_str());
            return 0;
        }
        if (!words.empty() && std::strcmp(words[0], "--fields") == 0)
        {
            printFields(findCreator({words.begin() + 1, words.end()}));
            return 0;
        }
        Walk const walk = takeWalk(words);
        if (words.size() < 2)
        {
            throw std::runtime_error("a file of cases and one for the results must be named");
        }
        host::requireDevice();
        auto& creator = findCreator({words.begin() + 2, words.end()});
        std::vector<host::Result> results;
        for (host::Case const& layer : host::readCases(words[0]))
        {
            results.push_back(walk(creator, layer));
        }
        host::writeResults(words[1], results);
        return 0;
    }
    catch (std::exception const& error)
    {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
