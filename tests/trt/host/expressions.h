// An IExprBuilder of the host's own: expressions over named dimensions, as TensorRT builds them for
// dynamic shapes.
#pragma once

#include "nvinfer.h"

#include <memory>
#include <vector>

namespace host
{

//! A dimension: a constant, a size that is known only later, or an operation on two others.
class Expression : public nvinfer1::IDimensionExpr, public nvinfer1::apiv::VDimensionExpr
{
public:
    Expression(bool constant, int64_t value)
        : mConstant(constant)
        , mValue(value)
    {
        nvinfer1::IDimensionExpr::mImpl = this;
    }

    bool isConstant() const override
    {
        return mConstant;
    }
    int64_t getConstantValue() const override
    {
        return mValue;
    }
    bool isSizeTensor() const override
    {
        return false;
    }

    //! What the expression gives for the sizes at hand.
    int64_t value() const
    {
        return mValue;
    }

private:
    bool mConstant;
    int64_t mValue;
};

class ExpressionBuilder : public nvinfer1::IExprBuilder, public nvinfer1::apiv::VExprBuilder
{
public:
    ExpressionBuilder()
    {
        nvinfer1::IExprBuilder::mImpl = this;
    }

    nvinfer1::IDimensionExpr const* constant(int64_t value) override
    {
        return add(true, value);
    }

    //! A dimension that is dynamic, with the value that it will have.
    nvinfer1::IDimensionExpr const* dynamic(int64_t value)
    {
        return add(false, value);
    }

    nvinfer1::IDimensionExpr const* operation(
        nvinfer1::DimensionOperation op, nvinfer1::IDimensionExpr const& first, nvinfer1::IDimensionExpr const& second) override
    {
        auto const& a = static_cast<Expression const&>(first);
        auto const& b = static_cast<Expression const&>(second);
        return add(a.isConstant() && b.isConstant(), evaluate(op, a.value(), b.value()));
    }

    nvinfer1::IDimensionExpr const* declareSizeTensor(
        int32_t, nvinfer1::IDimensionExpr const&, nvinfer1::IDimensionExpr const&) override
    {
        return nullptr;
    }

private:
    nvinfer1::IDimensionExpr const* add(bool constant, int64_t value)
    {
        mExpressions.push_back(std::make_unique<Expression>(constant, value));
        return mExpressions.back().get();
    }

    static int64_t evaluate(nvinfer1::DimensionOperation op, int64_t a, int64_t b)
    {
        using Op = nvinfer1::DimensionOperation;
        switch (op)
        {
        case Op::kSUM: return a + b;
        case Op::kPROD: return a * b;
        case Op::kMAX: return a > b ? a : b;
        case Op::kMIN: return a < b ? a : b;
        case Op::kSUB: return a - b;
        case Op::kEQUAL: return a == b ? 1 : 0;
        case Op::kLESS: return a < b ? 1 : 0;
        case Op::kFLOOR_DIV: return a / b - (a % b != 0 && (a < 0) != (b < 0) ? 1 : 0);
        default: return a / b + (a % b != 0 && (a < 0) == (b < 0) ? 1 : 0);
        }
    }

    std::vector<std::unique_ptr<Expression>> mExpressions;
};

} // namespace host
