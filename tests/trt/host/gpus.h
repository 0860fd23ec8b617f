// A machine with several GPUs, played to the plugin that is linked in.
#pragma once

#include "case_file.h"

namespace host
{

//! Leads a plugin from GPU to GPU, as cudaSetDevice does between TensorRT's calls.
//! \return facts: "loads", for each step the compute capabilities of the GPUs on which kernels were
//! loaded in it, "failed", the steps whose call failed, and "queries in enqueue", how often enqueue
//! asked for the GPU. Outputs: "first GPU" and "other GPU".
Result changeGpus(nvinfer1::IPluginCreatorV3One& creator, Case const& layer);

} // namespace host
