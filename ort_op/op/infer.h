// Infers the output's shape.
#pragma once

#include "onnxruntime.h"

namespace lccl::ort
{

//! Tells ONNX Runtime the shape of Y, [N, K, Ho, Wo]; a size that is not known gets a name, as ONNX
//! has it.
//! \throw std::exception for shapes or attributes that the op does not allow
void inferShape(OrtApi const& api, OrtShapeInferContext* context);

} // namespace lccl::ort
