# Triton's part: whether the Python at hand has it, and the rule that makes cubins of the kernels in
# exporter/lccl/backends/torch/triton. Sets LCCL_TRITON_VERSION, empty without it, and LCCL_TRITON_WHY_NOT.
set(LCCL_TRITON AUTO CACHE STRING "Triton's kernels: ON, OFF, or AUTO for where Triton is at hand")
set_property(CACHE LCCL_TRITON PROPERTY STRINGS AUTO ON OFF)
set(LCCL_TRITON_CAPABILITIES "" CACHE STRING "GPUs that they are compiled for, such as 90; empty: those of CMAKE_CUDA_ARCHITECTURES")
set(LCCL_TRITON_ONLY "$ENV{LCCL_TRITON_ONLY}" CACHE STRING "Names of the kernels to compile, for tests; empty: all")
set(LCCL_TRITON_JOBS "" CACHE STRING "Kernels that are compiled at once; empty: one for each core")
set(LCCL_TRITON_CACHE "" CACHE PATH "Folder of kernels that were compiled before; empty: the user's")
set(LCCL_TRITON_VERSION "")
set(LCCL_TRITON_WHY_NOT "LCCL_TRITON is OFF")
if(LCCL_TRITON STREQUAL AUTO)
  set(LCCL_TRITON_WANTED AUTO)
elseif(LCCL_TRITON)
  set(LCCL_TRITON_WANTED ON)
else()
  set(LCCL_TRITON_WANTED OFF)
endif()

# The package: beside the sources in a checkout, around them in an installation.
if(EXISTS ${PROJECT_SOURCE_DIR}/exporter/lccl)
  set(LCCL_PACKAGES ${PROJECT_SOURCE_DIR}/exporter)
else()
  get_filename_component(LCCL_PACKAGES ${PROJECT_SOURCE_DIR}/../.. ABSOLUTE)
endif()
set(LCCL_TRITON_FOLDER ${LCCL_PACKAGES}/lccl/backends/torch/triton)
set(LCCL_TRITON_SOURCES ahead.py configurations.py kernels.py)
list(TRANSFORM LCCL_TRITON_SOURCES PREPEND ${LCCL_TRITON_FOLDER}/)
# The checkout's package comes before an installed one.
set(LCCL_RUN_TRITON ${CMAKE_COMMAND} -E env --unset=TRITON_INTERPRET "PYTHONPATH=${LCCL_PACKAGES}:$ENV{PYTHONPATH}")

if(NOT LCCL_TRITON_WANTED STREQUAL OFF)
  find_program(LCCL_PYTHON NAMES "$ENV{VIRTUAL_ENV}/bin/python" python3 python DOC "A Python with lccl's requirements and Triton")
  if(LCCL_PYTHON)
    execute_process(
      COMMAND ${LCCL_RUN_TRITON} ${LCCL_PYTHON} -m lccl.backends.torch.triton.ahead --probe
      OUTPUT_VARIABLE LCCL_TRITON_VERSION
      ERROR_VARIABLE LCCL_TRITON_WHY_NOT
      OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_STRIP_TRAILING_WHITESPACE)
    string(REGEX REPLACE ".*\n" "" LCCL_TRITON_WHY_NOT "${LCCL_TRITON_WHY_NOT}")
    set(LCCL_TRITON_WHY_NOT "${LCCL_PYTHON} says: ${LCCL_TRITON_WHY_NOT}")
  else()
    set(LCCL_TRITON_WHY_NOT "there is no Python: set LCCL_PYTHON to one with Triton")
  endif()
endif()

set(LCCL_CAPABILITIES ${LCCL_TRITON_CAPABILITIES})
if(NOT LCCL_CAPABILITIES)
  foreach(architecture IN LISTS CMAKE_CUDA_ARCHITECTURES)
    if(architecture MATCHES "^([0-9]+)")
      list(APPEND LCCL_CAPABILITIES ${CMAKE_MATCH_1})
    endif()
  endforeach()
  list(REMOVE_DUPLICATES LCCL_CAPABILITIES)
endif()

# Others, such as 103 and 121, take the PTX of the CUDA kernels.
set(others ${LCCL_CAPABILITIES})
list(FILTER others EXCLUDE REGEX "^(80|86|89|90|100|120|none)$")
if(others AND NOT LCCL_TRITON_WANTED STREQUAL OFF)
  message(STATUS "No kernels in Triton for ${others}: these run the CUDA kernels alone, if nvcc is here")
endif()
list(FILTER LCCL_CAPABILITIES INCLUDE REGEX "^(80|86|89|90|100|120)$")
if(LCCL_TRITON_VERSION AND NOT LCCL_CAPABILITIES)
  set(LCCL_TRITON_VERSION "")
  set(LCCL_TRITON_WHY_NOT "they are for compute capability 8.0, 8.6, 8.9, 9.0, 10.0 and 12.0 alone")
endif()

# Adds an object library of what starts the cubins, and the cubins.
function(lccl_add_triton_kernels target)
  set(made ${CMAKE_CURRENT_BINARY_DIR}/${target})
  set(only "")
  if(LCCL_TRITON_ONLY)
    set(only --only ${LCCL_TRITON_ONLY})
  endif()
  set(jobs "")
  if(LCCL_TRITON_JOBS)
    set(jobs --jobs ${LCCL_TRITON_JOBS})
  endif()
  set(cache "")
  if(LCCL_TRITON_CACHE)
    set(cache --cache ${LCCL_TRITON_CACHE})
  endif()
  # What the cubins depend on beside the sources. Its time changes only where its content does.
  set(stamp ${made}/asked.txt)
  file(CONFIGURE OUTPUT ${stamp} CONTENT "@LCCL_TRITON_VERSION@\n@LCCL_CAPABILITIES@\n@LCCL_TRITON_ONLY@\n@LCCL_PYTHON@\n" @ONLY)
  add_custom_command(
    OUTPUT ${made}/cubins.cpp ${made}/cubins.bin
    COMMAND ${LCCL_RUN_TRITON} ${LCCL_PYTHON} -m lccl.backends.torch.triton.ahead --out ${made} --capability ${LCCL_CAPABILITIES}
            ${only} ${jobs} ${cache}
    DEPENDS ${LCCL_TRITON_SOURCES} ${stamp}
    COMMENT "Compiling the kernels in Triton ${LCCL_TRITON_VERSION} for ${LCCL_CAPABILITIES}"
    VERBATIM)
  add_library(${target} OBJECT ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/launch_triton.cpp ${made}/cubins.cpp)
  set_source_files_properties(${made}/cubins.cpp PROPERTIES OBJECT_DEPENDS ${made}/cubins.bin)
  target_include_directories(${target} PUBLIC ${CMAKE_CURRENT_FUNCTION_LIST_DIR} PRIVATE ${PROJECT_SOURCE_DIR})
  target_compile_features(${target} PRIVATE cxx_std_17)
  target_compile_definitions(${target} PRIVATE LCCL_WITHOUT_NVCC) # by the host's compiler
  target_compile_options(${target} PRIVATE -Wall -Wextra)
  if(LCCL_WARNINGS_ARE_ERRORS)
    target_compile_options(${target} PRIVATE -Werror)
  endif()
  set_target_properties(
    ${target} PROPERTIES CXX_EXTENSIONS OFF CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON POSITION_INDEPENDENT_CODE ON)
endfunction()
