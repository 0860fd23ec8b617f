"""Families of ONNX's standard ops, each listed once.

A pass that needs more or fewer ops adds to these or takes away, with the reason.

A new op of ONNX goes into the families that it belongs to, and each pass that reads them then knows
it.
"""

from __future__ import annotations

Ops = frozenset[str]

# ---- layers with weights -------------------------------------------------------------------------

REPORTED_CONVOLUTIONS: Ops = frozenset({"Conv", "ConvTranspose"})
"""Convolutions of floats: each has a row in an export's report."""
CONVOLUTIONS: Ops = REPORTED_CONVOLUTIONS | {"ConvInteger", "QLinearConv", "DeformConv"}
"""Where a walk along the main branch ends, whether the op can take the convolution's place or
not."""
WEIGHTED: Ops = REPORTED_CONVOLUTIONS | {"Gemm", "MatMul"}
"""Weighted sums of floats."""

# ---- normalizations ------------------------------------------------------------------------------

PIXEL_NORMS: Ops = frozenset({"InstanceNormalization", "GroupNormalization", "LayerNormalization"})
"""They take means over the pixels that they normalize, so that every pixel has to be computed."""
NORMS: Ops = PIXEL_NORMS | {"BatchNormalization"}

# ---- arithmetic ----------------------------------------------------------------------------------

SUMS: Ops = frozenset({"Add", "Sub", "Sum"})
BINARY_AFFINE: Ops = frozenset({"Add", "Sub", "Mul", "Div"})
"""Of two operands; a * x + b where one of them is a constant."""
ACTIVATIONS: Ops = frozenset(
    {
        *("Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "Selu", "Gelu", "Mish", "Softplus", "Celu", "ThresholdedRelu"),
        *("Clip", "Min", "Max", "Relu", "LeakyRelu", "PRelu"),
    }
)
"""What stands as an activation behind a convolution, by itself or as one of its steps."""
POINTWISE: Ops = frozenset(
    {
        *("Abs", "Clip", "Elu", "Erf", "Exp", "HardSigmoid", "HardSwish", "LeakyRelu", "Neg", "Relu", "Sigmoid", "Softplus"),
        *("Sqrt", "Tanh", "ThresholdedRelu", "Add", "Div", "Max", "Min", "Mul", "Pow", "Sub", "Sum", "Cast", "Not", "Where"),
        *("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Identity"),
    }
)
"""Steps that activations such as SiLU and GELU are written in. Fewer than all elementwise ops:
those that decide whether ``x * f(x)`` is an activation."""

# ---- conditions ----------------------------------------------------------------------------------

GREATER: Ops = frozenset({"Greater", "GreaterOrEqual"})
LESS: Ops = frozenset({"Less", "LessOrEqual"})
COMPARISONS: Ops = GREATER | LESS
"""True on one side of a number, false on the other."""
CONDITIONS: Ops = COMPARISONS | {"Equal", "Not", "And", "Or", "Xor"}
"""Their result is true or false."""

# ---- ops that move values and change none --------------------------------------------------------

COPIES: Ops = frozenset({"Identity", "Dropout"})
"""The output is the input; of Dropout, outside of training."""
RESHAPES: Ops = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})
"""The same values in the same order."""
REPEATS: Ops = frozenset({"Expand", "Tile"})
SELECTIONS: Ops = frozenset({"Slice", "Gather"})
VIEWS: Ops = COPIES | RESHAPES | REPEATS | SELECTIONS | {"Transpose"}
"""Every output value is one input value, and a bound of the input is one of the output."""
REARRANGEMENTS: Ops = VIEWS | {"Cast", "Concat", "Resize"}
"""What indices can be followed through. Some attributes of Cast, Concat, Resize and Dropout change
values: ``rearrange`` looks."""
WHOLE_MAP_MOVES: Ops = frozenset(
    {"Identity", *("Reshape", "Squeeze", "Unsqueeze"), *REPEATS, "Transpose", "Resize", "Upsample"}
)
"""What stands between a mask and its product in files as they are given, before they are
simplified. No Slice, Gather or Flatten, which may drop pixels; Upsample, which later opsets do not
have."""
BOUND_KEEPING: Ops = VIEWS | {
    *("DepthToSpace", "SpaceToDepth", "Split"),
    *("MaxPool", "GlobalMaxPool", "GlobalAveragePool", "ReduceMax", "ReduceMin", "ReduceMean"),
}
"""Every output value lies between the least and the greatest input value: views, and means and
extremes."""

# ---- others --------------------------------------------------------------------------------------

SHAPE_READERS: Ops = frozenset({"Shape", "Size"})
"""They read a tensor's shape and none of its values."""
SIZE_ARITHMETIC: Ops = frozenset(
    {
        *("Add", "Sub", "Mul", "Div", "Mod", "Neg", "Abs", "Sign", "Max", "Min", "Floor", "Ceil", "Round"),
        *("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "And", "Or", "Xor"),
    }
)
"""What sizes are computed with, element by element; exact in every runtime."""
SIZES_FROM_KNOWN: Ops = frozenset({"ConstantOfShape", "Range", "ReduceProd", "ReduceSum", "ReduceMax", "ReduceMin", "OneHot"})
"""Further ops on sizes, whose result is followed where every input is known."""
QUANTIZERS: Ops = frozenset({"QuantizeLinear", "DequantizeLinear"})
ROUNDERS: Ops = frozenset({"QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul"})
"""They round feature maps to few levels: a last bit before them may be a whole step behind them."""
RANDOM_LIKE: Ops = frozenset({"RandomNormalLike", "RandomUniformLike", "Bernoulli"})
"""They give other values each time, whatever their input."""
CONSTANT_SOURCES: Ops = frozenset({"Constant", "ConstantOfShape"})
"""They give a constant without reading values of another tensor."""
CONSTANT_COPIES: Ops = frozenset({"Cast", "CastLike", "Expand", "Identity"})
"""What they make of a constant is that constant: zeros stay zeros."""
FOLDABLE: Ops = SHAPE_READERS | {
    *("CastLike", "ConstantOfShape", "If", "Loop", "Range", "SequenceAt", "SequenceConstruct", "SplitToSequence"),
}
"""They hide a constant or a convolution's bias, and onnxscript's optimizer resolves them."""
