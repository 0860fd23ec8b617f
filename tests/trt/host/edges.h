// What TensorRT does only where something is wrong, and what it may do in another order.
#pragma once

#include "case_file.h"

namespace host
{

//! The case's fields are an engine's: makes the plugin of it, a context, and enqueues once, with as
//! much workspace as any needs.
//! \return the output as "y", or the call that failed; "untouched" among the facts: nothing was
//! written
Result runEngine(nvinfer1::IPluginCreatorV3One& creator, Case const& layer);

//! What an engine keeps of the workspace: "workspace_bytes" among the fields that are serialised,
//! as facts, for each order in which a plugin is configured, asked and cloned; and what
//! getWorkspaceSize answers where it must fail, "failed".
Result keepWorkspace(nvinfer1::IPluginCreatorV3One& creator, Case const& layer);

//! Enqueues with each pointer null and, of those that are read in vectors, with each misaligned.
//! \return facts: the names of the calls that were refused without a byte written, in their order
Result misplacePointers(nvinfer1::IPluginCreatorV3One& creator, Case const& layer);

} // namespace host
