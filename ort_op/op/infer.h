// Infers the output's shape.
#pragma once

#include "onnxruntime.h"

namespace lccl::ort
{

//! Tells ONNX Runtime the shape of Y, [N, K, Ho, Wo] or, where the node's layouts say so, [N, Ho,
//! Wo, K]; a size that is not known gets a name, as ONNX has it.
//! \param hasLayouts whether the node says the layouts of its tensors
//! \throw std::exception for shapes or attributes that the op does not allow
void inferShape(OrtApi const& api, OrtShapeInferContext* context, bool hasLayouts);

} // namespace lccl::ort
