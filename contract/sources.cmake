# The op's contract for adapters to runtimes, without any framework: each adapter's library compiles it in.
set(LCCL_CONTRACT_SOURCES attributes.cpp call.cpp shapes.cpp)
list(TRANSFORM LCCL_CONTRACT_SOURCES PREPEND ${CMAKE_CURRENT_LIST_DIR}/)
get_filename_component(LCCL_CONTRACT_INCLUDE ${CMAKE_CURRENT_LIST_DIR} DIRECTORY) # "contract/call.h" is below it
