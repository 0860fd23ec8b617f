// A plugin's life as TensorRT leads it: build, timing, contexts, serialisation, run.
#pragma once

#include "case_file.h"

namespace host
{

//! Goes through every method of the V3 interfaces in TensorRT's order.
//! \return outputs: "context <tactic>" for each tactic; for the first and the last one also "timed
//! <tactic>" of the building plugin, "second context <tactic>", "runtime <tactic>" of an engine
//! that was serialised and, on a GPU, "captured <tactic>" of a CUDA graph; or the call that failed.
Result live(nvinfer1::IPluginCreatorV3One& creator, Case const& layer);

} // namespace host
