# The folder of ONNX Runtime's C header that the caller names: held to what it has to be, whether or not anything is compiled with
# it, so that a wrong one never passes for none. Sets LCCL_NAMED_HEADERS, empty where none is named.
include_guard(DIRECTORY)
set(LCCL_ONNXRUNTIME_INCLUDE "" CACHE PATH
    "Folder that holds onnxruntime_c_api.h; else the environment's LCCL_ONNXRUNTIME_INCLUDE, else the system's, else downloaded")

# Whether the header declares all that is used: the inference of shapes came with 1.17.
function(lccl_header_is_new_enough folder result)
  file(STRINGS ${folder}/onnxruntime_c_api.h known REGEX "InferOutputShapeFn" LIMIT_COUNT 1)
  if(known)
    set(${result} TRUE PARENT_SCOPE)
  else()
    set(${result} FALSE PARENT_SCOPE)
  endif()
endfunction()

set(LCCL_NAMED_HEADERS "${LCCL_ONNXRUNTIME_INCLUDE}")
if(NOT LCCL_NAMED_HEADERS)
  set(LCCL_NAMED_HEADERS "$ENV{LCCL_ONNXRUNTIME_INCLUDE}")
endif()
if(LCCL_NAMED_HEADERS)
  if(NOT EXISTS ${LCCL_NAMED_HEADERS}/onnxruntime_c_api.h)
    message(FATAL_ERROR "LCCL_ONNXRUNTIME_INCLUDE is ${LCCL_NAMED_HEADERS}, which has no onnxruntime_c_api.h.")
  endif()
  lccl_header_is_new_enough(${LCCL_NAMED_HEADERS} new_enough)
  if(NOT new_enough)
    message(FATAL_ERROR "LCCL_ONNXRUNTIME_INCLUDE is ${LCCL_NAMED_HEADERS}, whose onnxruntime_c_api.h is older than 1.17.")
  endif()
endif()
