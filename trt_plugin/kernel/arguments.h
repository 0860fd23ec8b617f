// The arguments of all kernels of a call, in one plain struct.
#pragma once

#include "index.h"

namespace lccl
{

//! Element strides of a 4-d tensor.
struct Strides
{
    int64_t n;
    int64_t channel;
    int64_t h;
    int64_t w;
};

struct Arguments
{
    // Tensors, as in lccl_conv_params. T is the kernel's.
    void const* x;
    void const* weight; //!< T [k, r, s, weightChannels]
    float const* bias;
    void const* gateWeight; //!< May be null.
    float const* gateBias;  //!< May be null.
    void const* gate;       //!< May be null.
    float const* postScale; //!< May be null.
    float const* postBias;  //!< May be null.
    void const* residual;   //!< May be null; may be y.
    void* y;

    // Workspace.
    float* cellGate;        //!< [cells] the gate of each cell, 0 where inactive
    int32_t* cellList;      //!< [cells] each segment's cells: active ones from the front, inactive ones from the back
    int32_t* segmentCounts; //!< [segments] active cells
    int32_t* tileCounters;  //!< [counters] blocks that have delivered their part of a tile
    float* partials;        //!< [blocks][tile] partial sums
    void* packedWeight;     //!< T [k, r, s, ceil8(c)]; null where c is a multiple of 8 or the kernel needs none

    int32_t inputPitch; //!< Elements between pixels of x in NHWC.
    Strides xStrides;
    Strides yStrides;

    int32_t n, c, h, w, k, r, s, ho, wo, hg, wg;
    int32_t strideH, strideW, padTop, padLeft, dilationH, dilationW;
    int32_t gateR, gateS, gateStrideH, gateStrideW, gatePadTop, gatePadLeft, gateDilationH, gateDilationW;
    int32_t postScaleStep; //!< 1, or 0 where one value serves all channels
    int32_t postBiasStep;
    int32_t grid;           //!< G
    int32_t cells;          //!< n * hg * wg
    int32_t pixels;         //!< n * ho * wo
    int32_t outputChannels; //!< Channels that are written: k, or k padded to 8.
    int32_t channelChunks;  //!< ceil(c / 8)
    int32_t lastChunkBytes; //!< Bytes of a pixel's last chunk that hold channels.
    int32_t identityAbove;  //!< With more active cells than this, all rows are computed; -1: always
    int32_t maxSplits;
    int32_t segments;
    int32_t segmentCells; //!< Cells that a block of the gate kernel computes and lists.
    int32_t gateLanes;    //!< Lanes that share a cell's gate; a power of two up to 32.
    int32_t fillLanes;    //!< Lanes that share an inactive pixel; a power of two up to 32.
    int32_t counters;

    float activationAlpha, gateSlope, gateMax, gateThreshold, postAlpha;
    float simulatedDensity; //!< -1, or the share of cells whose gate is made 1, all others made 0.

    FastDivisor byChannelChunks, byChannels, byKernelWidth, byGateKernelWidth, byCellArea, byGrid, byGateWidth, byGateHeight,
        byOutputWidth, byOutputHeight;
};

} // namespace lccl
