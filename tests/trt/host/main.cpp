// Leads a plugin through its life for each case of a file.
//
//   lccl_trt_host CASES RESULTS                           the plugin that is linked in
//   lccl_trt_host CASES RESULTS TENSORRT.so PLUGIN.so     the plugin's library, loaded by TensorRT's registry in this process
//   lccl_trt_host CASES RESULTS PLUGIN.so                 the plugin's library without TensorRT
//   lccl_trt_host --logger FAKE.so PLUGIN.so              what the plugin tells the logger of fake_tensorrt.cpp
//   lccl_trt_host --fields                                JSON: names, types, defaults of the fields, as getFieldNames lists them

#include "case_file.h"
#include "lifecycle.h"
#include "registry.h"

#include <cstdio>
#include <cstring>
#include <exception>

#if LCCL_HOST_LINKED
extern "C" nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count);
#endif

namespace
{

nvinfer1::IPluginCreatorV3One& findCreator([[maybe_unused]] int argc, [[maybe_unused]] char** argv)
{
#if LCCL_HOST_LINKED
    int32_t count = 0;
    return static_cast<nvinfer1::IPluginCreatorV3One&>(*getCreators(count)[0]);
#else
    return argc == 4 ? host::creatorOf(argv[3]) : host::creatorFromRegistry(argv[argc - 2], argv[argc - 1]);
#endif
}

void printField(nvinfer1::PluginField const& field, bool first)
{
    std::printf("%s{\"name\": \"%s\", \"type\": %d, \"values\": [", first ? "" : ", ", field.name, static_cast<int>(field.type));
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
        if (std::strcmp(argv[1], "--logger") == 0)
        {
            std::printf("%s\n", host::messageThrough(argv[2], argv[3]).c_str());
            return 0;
        }
        auto& creator = findCreator(argc, argv);
        if (std::strcmp(argv[1], "--fields") == 0)
        {
            printFields(creator);
            return 0;
        }
        std::vector<host::Result> results;
        for (host::Case const& layer : host::readCases(argv[1]))
        {
            results.push_back(host::live(creator, layer));
        }
        host::writeResults(argv[2], results);
        return 0;
    }
    catch (std::exception const& error)
    {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
