// ONNX Runtime's C interface for C++: failures are exceptions here, and statuses where ONNX Runtime
// calls.
#pragma once

#include <onnxruntime_c_api.h>

#include <exception>
#include <new>
#include <stdexcept>
#include <string>

namespace lccl::ort
{

//! The interface of ONNX Runtime 1.17, the oldest that has all that is used here; every newer
//! version offers it.
constexpr uint32_t kApiVersion = 17;

//! A status of ONNX Runtime as an exception.
class Failure : public std::runtime_error
{
public:
    using std::runtime_error::runtime_error;
};

//! Whether the call succeeded; the status is released.
inline bool succeeded(OrtApi const& api, OrtStatus* status)
{
    api.ReleaseStatus(status);
    return status == nullptr;
}

//! \throw Failure with the status' message
inline void check(OrtApi const& api, OrtStatus* status)
{
    if (status != nullptr)
    {
        std::string const message = api.GetErrorMessage(status);
        api.ReleaseStatus(status);
        throw Failure(message);
    }
}

//! Runs `body` and turns an exception into a status, "LCCLConv <node>: <words>". Nothing is thrown
//! into ONNX Runtime.
template <typename Body>
OrtStatus* guarded(OrtApi const& api, std::string const& node, Body&& body) noexcept
{
    auto const failed = [&](OrtErrorCode code, char const* words) noexcept -> OrtStatus*
    {
        try
        {
            return api.CreateStatus(code, ("LCCLConv" + (node.empty() ? node : " " + node) + ": " + words).c_str());
        }
        catch (...)
        {
            return api.CreateStatus(ORT_FAIL, "LCCLConv: out of memory");
        }
    };
    try
    {
        body();
        return nullptr;
    }
    catch (std::invalid_argument const& error)
    {
        return failed(ORT_INVALID_ARGUMENT, error.what());
    }
    catch (std::bad_alloc const&)
    {
        return failed(ORT_RUNTIME_EXCEPTION, "out of memory");
    }
    catch (std::exception const& error)
    {
        return failed(ORT_FAIL, error.what());
    }
    catch (...)
    {
        return failed(ORT_FAIL, "an unknown exception");
    }
}

} // namespace lccl::ort
