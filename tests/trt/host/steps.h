// What the host's programs do with a plugin again and again: make one, describe a layer, run it.
#pragma once

#include "case_file.h"
#include "device.h"

#include <memory>
#include <string>
#include <vector>

namespace host
{

struct Capabilities
{
    nvinfer1::IPluginV3OneCore* core;
    nvinfer1::IPluginV3OneBuildV2* build;
    nvinfer1::IPluginV3OneRuntime* runtime;
};

//! \throw std::runtime_error with the words, unless `holds`
void require(bool holds, std::string const& what);

Capabilities capabilitiesOf(nvinfer1::IPluginV3& plugin);

std::unique_ptr<nvinfer1::IPluginV3> create(nvinfer1::IPluginCreatorV3One& creator, std::string const& name,
    std::vector<Field> const& fields, nvinfer1::TensorRTPhase phase);

//! Copies, as an engine file holds them.
std::vector<Field> serialised(nvinfer1::IPluginV3OneRuntime& runtime);

//! The nine inputs and the output with the profile of a build: batch, height and width are dynamic
//! in maps that follow x, from one image over those of the case to twice as many.
std::vector<nvinfer1::DynamicPluginTensorDesc> describeForBuild(Case const& layer);

//! Buffers and the stream of one execution context.
class Context
{
public:
    Context(Case const& layer, size_t workspace);

    //! Sets the tactic and the shapes, poisons what is written, and enqueues.
    void start(nvinfer1::IPluginV3OneRuntime& runtime, int32_t tactic);

    Bytes finish();
    Bytes run(nvinfer1::IPluginV3OneRuntime& runtime, int32_t tactic);

    //! The call in a CUDA graph; false where there are none.
    bool runCaptured(nvinfer1::IPluginV3OneRuntime& runtime, int32_t tactic);

    //! Poisons what is written.
    void poison();

    //! Whether nothing was written since.
    bool isPoisoned() const;

    //! What the plugin's calls return.
    int32_t changeShapes(nvinfer1::IPluginV3OneRuntime& runtime);
    int32_t enqueue(nvinfer1::IPluginV3OneRuntime& runtime);

    //! What enqueue gets: the nine inputs, the output, the workspace.
    std::vector<void const*> inputs;
    void* output;
    void* workspace;

private:
    void prepare(nvinfer1::IPluginV3OneRuntime& runtime, int32_t tactic);

    Case const& mLayer;
    std::vector<nvinfer1::PluginTensorDesc> mDescriptions;
    std::vector<Memory> mInputs;
    Memory mWorkspace;
    Memory mOutput;
    Stream mStream;
};

} // namespace host
