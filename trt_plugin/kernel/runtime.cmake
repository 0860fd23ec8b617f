# CUDA's runtime: headers and the static library, of the toolkit or of pip's nvidia-cuda-runtime and nvidia-cuda-crt. Sets
# LCCL_CUDA_INCLUDE, and without nvcc LCCL_CUDART, too.
if(LCCL_NVCC)
  set(LCCL_CUDA_INCLUDE ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
else()
  set(LCCL_CUDA_RUNTIME "" CACHE PATH "Folder of CUDA's runtime with include/ and lib/; empty: that of pip's nvidia-cuda-runtime")
  set(runtime "${LCCL_CUDA_RUNTIME}")
  if(NOT runtime)
    execute_process(
      COMMAND ${LCCL_PYTHON} -c "import glob, importlib.util as u
spec = u.find_spec('nvidia')
found = [p for r in (spec.submodule_search_locations if spec else []) for p in glob.glob(r + '/cu*') + glob.glob(r + '/cuda_runtime')]
print(next((p for p in sorted(found, reverse=True) if glob.glob(p + '/include/cuda_runtime_api.h')), ''))"
      OUTPUT_VARIABLE runtime OUTPUT_STRIP_TRAILING_WHITESPACE)
  endif()
  find_path(LCCL_CUDA_INCLUDE cuda_runtime_api.h HINTS "${runtime}/include" REQUIRED NO_DEFAULT_PATH)
  find_library(LCCL_CUDART NAMES libcudart_static.a HINTS "${runtime}/lib" "${runtime}/lib64" REQUIRED NO_DEFAULT_PATH)
  if(NOT EXISTS ${LCCL_CUDA_INCLUDE}/crt/host_defines.h)
    message(FATAL_ERROR "${LCCL_CUDA_INCLUDE} has no crt/host_defines.h: pip install nvidia-cuda-crt.")
  endif()
endif()

# Cubins are loaded by functions that came with CUDA 12.8.
set(LCCL_RUNTIME_LOADS_CUBINS OFF)
foreach(folder IN LISTS LCCL_CUDA_INCLUDE)
  if(EXISTS ${folder}/cuda_runtime_api.h)
    file(STRINGS ${folder}/cuda_runtime_api.h found REGEX "CUDARTAPI cudaLibraryLoadData\\(")
    if(found)
      set(LCCL_RUNTIME_LOADS_CUBINS ON)
    endif()
  endif()
endforeach()
