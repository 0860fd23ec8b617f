// Cuts one call into tasks and lays out a worker's scratch: a pure function of sizes and threads.
//
// A task computes a band of output rows of some images, for some output channels, from the gate to
// y. Tasks need nothing from each other, so that a call is one parallel loop. What a task reads of
// x, padded and with channels innermost, is its window.
#pragma once

#include "lccl_cpu.h"

namespace lccl_cpu
{

//! Where the logits of a call come from.
enum class GateSource
{
    kNone,   //!< no gate of its own: gate_bias everywhere
    kPlanes, //!< from x as it lies, a map per tap: stride 1, at most kMaxPlaneTaps taps
    kWindow, //!< from the window, a dot product per tap and cell: everything else
    kPixels  //!< from x as it lies with channels innermost, a dot product per tap and cell
};

constexpr int kMaxPlaneTaps = 9;
constexpr int kMaxKernel = 7;
constexpr int kMaxTaps = kMaxKernel * kMaxKernel;
constexpr int kGroup = 8; //!< pixels that are transposed together

//! Most multiplications of one pixel in a pass of the micro-kernel, so that the weights of a pass
//! stay in L1.
constexpr int kPassDepth = 384;

//! Arrays in a worker's scratch. Sizes are of the largest task.
struct Scratch
{
    size_t window;      //!< float [images, window_rows, window_width, pitch]; nothing where x is the window
    size_t compact;     //!< float [pixels + 1, columns]: computed rows, then the row of a pixel that is not computed
    size_t tapMaps;     //!< float [taps of the gate, map_pitch]
    size_t gateWeights; //!< float [c, taps of the gate], where logits come from planes
    size_t cells;       //!< float [cells of a band]
    size_t gate;        //!< float [pixels]
    size_t listOffset;  //!< int32 [pixels]: where an active pixel's first tap is in the window
    size_t listGate;    //!< float [pixels]
    size_t listTaps;    //!< uint64 [pixels]: its taps that are not padding
    size_t listPixel;   //!< int32 [pixels]
    size_t listClass;   //!< uint8 [pixels]
    size_t sorted;      //!< as the four lists, while they are sorted
    size_t rowOf;       //!< int32 [pixels]: where a pixel's row is in compact
    size_t open;        //!< uint8 [pixels / 8 + images]: whether any pixel of 8 is computed
    size_t needed;      //!< uint8 [h * w / 8 + 1]: groups of x that active pixels read
    size_t present;     //!< uint8 [h * w / 8 + 1]: groups that are in the window
    size_t groups;      //!< int32 [h * w / 8 + 1]
    size_t pixelOffset; //!< int32 [window_rows * w]: where a pixel of x is in the window
    size_t columnTaps;  //!< uint64 [wo]
    size_t columnClass; //!< uint8 [wo]
    size_t range;       //!< uint64: tasks that the worker has before it; see work_stealing.h
    size_t vectors;     //!< float [4, columns]: bias, post_scale, post_bias, and y of a pixel that is not computed
    size_t bytes;       //!< all of it, a multiple of 64
};

struct Plan
{
    int ho, wo, hg, wg;
    int taps;
    GateSource gateSource;
    bool sorted; //!< whether rows are sorted, so that tiles can leave out taps that are padding for all of their rows
    int vectorLanes, tileRows, tileColumns;

    int panels;  //!< of tileColumns output channels; the last one may be narrower
    int columns; //!< output channels, padded to whole vectors

    int top;         //!< rows of the window above the first input row that the band's first output row would have unpadded
    int pitch;       //!< floats from pixel to pixel of the window
    int windowWidth; //!< pixels
    int windowRows;
    int imageRows;    //!< from one image's window to the next
    bool readsX;      //!< rows are read where they lie in x, which is the window: channels innermost, no padding
    bool writesY;     //!< rows are computed where they lie in y, if all of a task's pixels are: channels innermost
    int gateRows;     //!< rows of tapMaps
    int64_t mapPitch; //!< floats from one of tapMaps to the next
    int cellRows;     //!< rows of gate cells of a band

    int images; //!< of a task
    int imageGroups;
    int bandRows;
    int bands;
    int columnGroups;
    int64_t tasks;
    int workers; //!< at once

    Scratch scratch;
};

//! Receives the sentence that says why a call cannot run; by default it is dropped.
struct Reason
{
    char* text = nullptr;
    size_t size = 0;
};

//! \return whether the instruction set can run calls of this form for any h and w; if not, `reason`
//! has a sentence
bool takesForm(lccl_cpu_params const& params, lccl_cpu_isa const* isa, Reason reason);

//! \return whether the instruction set can run the call: then `plan` is set, else `reason` has a
//! sentence
bool makePlan(lccl_cpu_params const& params, lccl_cpu_isa const* isa, Plan& plan, Reason reason = {});

//! Channels of panel `panel`, padded. Static: files of different instruction sets must not share
//! its code.
static inline int panelColumns(Plan const& plan, int panel)
{
    int const left = plan.columns - panel * plan.tileColumns;
    return left < plan.tileColumns ? left : plan.tileColumns;
}

} // namespace lccl_cpu
