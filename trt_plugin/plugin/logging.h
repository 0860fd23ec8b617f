// Sends messages through TensorRT's logger, in either version of it.
#pragma once

#include <cstdint>
#include <exception>
#include <string>

namespace lccl::plugin
{

//! As nvinfer1::ILogger::Severity.
enum class Severity : int32_t
{
    kERROR = 1,
    kWARNING = 2,
    kVERBOSE = 4,
};

//! What TensorRT hands over when it loads the library: an nvinfer1::ILoggerFinder of its own
//! version.
void keepLoggerFinder(void* finder);

//! Sends "LCCLConv <layer>: <words>" to the logger of the engine or context that is calling; else
//! to stderr, unless it is verbose.
void log(Severity severity, std::string const& layer, std::string const& words) noexcept;

//! Runs `body` and returns what it returns. An exception is logged with the layer's name, and
//! `failure` returned: nothing is thrown into TensorRT.
template <typename Result, typename Body>
Result guarded(std::string const& layer, Result failure, Body&& body) noexcept
{
    try
    {
        return body();
    }
    catch (std::exception const& error)
    {
        log(Severity::kERROR, layer, error.what());
    }
    catch (...)
    {
        log(Severity::kERROR, layer, "an unknown error");
    }
    return failure;
}

} // namespace lccl::plugin
