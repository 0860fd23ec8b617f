"""The steps of :func:`lccl.nn.convert`: survey, choose by a policy, replace, compare."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Container, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from numbers import Real
from typing import Literal, TypeVar, overload

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from lccl.console.text import count
from lccl.errors import UserError, kind_of, shown
from lccl.errors.arguments import COUNT, FLAG, NAME, NONE, NUMBER, SIZES, WHOLE, takes
from lccl.errors.deprecation import renamed_keywords
from lccl.nn.conv import LCCLConv2d, Order
from lccl.nn.converting.measure import (
    LOW_PRECISION,
    TOLERANCE,
    TOLERANCE_LOW_PRECISION,
    ExampleArgs,
    Inputs,
    Work,
    calls,
    inputs_of,
    measure,
    require_same_outputs,
    run,
)
from lccl.nn.converting.paying import PREFIX, policy_by_costs
from lccl.nn.converting.plan import ConversionPlan, PlannedLayer
from lccl.nn.converting.policies import Policy, Where, policy_of
from lccl.nn.converting.recipes import GateOptions, LayerRecipe, gate_layers, layer_like
from lccl.nn.converting.structure import ConvInfo, ConvRole, Tree
from lccl.nn.converting.trace import NetworkTrace, has_hooks, trace
from lccl.nn.folded import FoldedLCCLConv2d
from lccl.nn.gate import GateActivation
from lccl.nn.parts import computes_as_conv2d, is_set_from_outside, refresh
from lccl.nn.plain import plain_maths
from lccl.op.contract import gate_macs, grid_hw
from lccl.torch_calls import inner_name, set_modes

ModelT = TypeVar("ModelT", bound=nn.Module)
OwnGateKind = Literal["1x1", "kxk", "grid"]
"""The kinds of gate that read the layer's own input; an external one has no place in a
conversion."""


@overload
def convert(
    model: ModelT,
    gate: OwnGateKind = ...,
    where: Where = ...,
    *,
    gate_size: int = ...,
    gate_kernel_size: int | tuple[int, int] | None = ...,
    gate_activation: GateActivation = ...,
    gate_norm: bool | None = ...,
    order: Order = ...,
    args: ExampleArgs | None = ...,
    density: float = ...,
    threads: int = ...,
    foreign_costs: bool = ...,
    inplace: bool = ...,
    dry_run: Literal[False] = ...,
) -> ModelT: ...


@overload
def convert(
    model: nn.Module,
    gate: OwnGateKind = ...,
    where: Where = ...,
    *,
    gate_size: int = ...,
    gate_kernel_size: int | tuple[int, int] | None = ...,
    gate_activation: GateActivation = ...,
    gate_norm: bool | None = ...,
    order: Order = ...,
    args: ExampleArgs | None = ...,
    density: float = ...,
    threads: int = ...,
    foreign_costs: bool = ...,
    inplace: bool = ...,
    dry_run: Literal[True],
) -> ConversionPlan: ...


@renamed_keywords(example="args")
@takes(
    gate=NAME,
    gate_size=WHOLE,
    gate_kernel_size=WHOLE | SIZES | NONE,
    gate_activation=NAME,
    gate_norm=FLAG | NONE,
    order=NAME,
    density=NUMBER,
    threads=COUNT,
    foreign_costs=FLAG,
    inplace=FLAG,
    dry_run=FLAG,
)
def convert(
    model: ModelT,
    gate: OwnGateKind = "kxk",
    where: Where = "first-of-block",
    *,
    gate_size: int = 1,
    gate_kernel_size: int | tuple[int, int] | None = None,
    gate_activation: GateActivation = "relu",
    gate_norm: bool | None = None,
    order: Order = "paper",
    args: ExampleArgs | None = None,
    density: float = 0.3,
    threads: int = 1,
    foreign_costs: bool = False,
    inplace: bool = False,
    dry_run: bool = False,
) -> ModelT | ConversionPlan:
    """Put gates on some convolutions of a dense network.

    The gates start open, so that the outputs are the dense network's in eval mode and in training
    mode. A norm moves into the gated layer where training runs it directly after its convolution
    and nowhere else. It stays after the gate where training does otherwise or where tracing cannot
    tell; a warning says so. :mod:`lccl.nn.converting` describes the placement of the gate,
    :func:`lccl.nn.gate.open_gate` its initialization. A gate's convolution keeps random weights:
    seed torch to reproduce them.

    Args:
        model: a network with ``nn.Conv2d`` layers. Each of its modules keeps its mode, and a gated
            layer is in training mode where its convolution or its norm is. In a network with
            SyncBatchNorm, gates have SyncBatchNorm too.
        gate, gate_size, gate_kernel_size, gate_activation, gate_norm: the gate's options, as in
            :class:`LCCLConv2d`.
        where: which convolutions get a gate, among those that the op supports (plain ``nn.Conv2d``,
            no groups, zero padding):

            * "first-of-block": the first one larger than 1 x 1 of each block. This trains best.
            * "all-3x3": all 3 x 3 convolutions. "pointwise": all 1 x 1, such as MobileNet's.
            * "paper": all of a block except a leading 1 x 1: both of a basic block, the last two of
              a bottleneck.
            * "min-channels:64": at least 64 input and 64 output channels. "min-macs:1e7": at least
              1e7 MACs per image.
            * "pays:costs.json": where the gate saves time at ``density``, by a table that
              ``lccl measure`` wrote on this machine.
            * "regex:layer[34]": the pattern matches the name. Or a list of names, or a function of
              a :class:`ConvInfo`.

            All but those of the last line leave out the stem, shortcuts, output layers (nothing
            with weights follows them), layers with one output channel, and layers with a 1 x 1
            output. A warning says what is unknown where code of the network cannot be traced.
        order: whether a norm that moves into a layer precedes the product ("paper") or follows it
            ("released").
        args: an example input: a tensor [N, C, H, W], the shape of one, a list of positional inputs
            or a dict of named ones. The network runs on it in eval mode before and after, and the
            outputs must agree within 1e-4 of the largest one (2e-2 in lower precision, where norms
            stay unfolded). It is also needed to count MACs.
        density: the fraction of pixels computed for which the table gives savings, and at which a
            gate has to pay.
        threads: of one inference, those that a table of costs has to be of.
        foreign_costs: take a table of another machine or of other threads, with a warning.
        inplace: change ``model`` itself instead of a deep copy, whose parameters are unknown to an
            optimizer.
        dry_run: change nothing, and return the table.

    Returns:
        The converted network; with ``dry_run``, a table that gives each convolution's gate or the
        reason for none.

    Raises:
        UserError: there is nothing to gate, the network is gated already, options or names do not
            fit, or outputs differ. The model is then as it was.
    """
    options = GateOptions(gate, gate_size, gate_kernel_size, gate_activation, gate_norm, 0.0, order)
    _require_dense(model)
    _require_options(options, density)
    if isinstance(where, str) and where.startswith(PREFIX):
        kind = f"grid:{gate_size}" if gate == "grid" else gate
        policy = policy_by_costs(where, kind, density, threads=threads, foreign=foreign_costs)
    else:
        policy = policy_of(where)
    inputs = None if args is None else inputs_of(args, model)
    work = None if inputs is None else measure(model, inputs)
    plan = _plan(model, options, policy, work, density)
    if dry_run:
        return plan
    if not plan.gated:
        raise UserError(
            f"where={shown(where)} gates none of the network's {count(len(plan.layers), 'convolution')}: dry_run=True lists why, "
            "and another policy or a list of names may gate some"
        )
    for note in plan.notes:
        warnings.warn(note, stacklevel=4)
    entries = [LayerRecipe(layer.name, layer.conv.norm, options) for layer in plan.gated]
    return _converted(model, entries, inputs, work, inplace)


def _plan(model: nn.Module, options: GateOptions, policy: Policy, work: Work | None, density: float) -> ConversionPlan:
    traced = trace(model)
    convs = _survey(model, traced, work, options)
    choices = policy(convs)
    layers = tuple(PlannedLayer(conv, choices[conv.name]) for conv in convs)
    notes = traced.notes_on(model.get_submodule(layer.name) for layer in layers if layer.gated)  # type: ignore[misc]
    return ConversionPlan(layers, options.gate, density, None if work is None else sum(work.macs.values()), notes)


def _require_dense(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise UserError(f"a network to convert is an nn.Module, not {kind_of(model)}")
    if isinstance(model, torch.jit.ScriptModule) or inner_name(model) is not None:
        raise UserError(f"the network is wrapped in {type(model).__name__}: convert it first, then wrap or compile it")
    gated = [name for name, m in model.named_modules() if isinstance(m, (LCCLConv2d, FoldedLCCLConv2d))]
    if gated:
        raise UserError(f"the network has gates already ({gated[0] or 'itself'}): convert the dense network")
    if isinstance(model, nn.Conv2d):
        raise UserError("the network is one convolution: build lccl.nn.LCCLConv2d in its place")
    if not any(isinstance(m, nn.Conv2d) for m in model.modules()):
        exported = ": convert the module before torch.export" if isinstance(model, fx.GraphModule) else ""
        raise UserError(f"the network has no nn.Conv2d, so there is nothing to gate{exported}")


def _require_options(options: GateOptions, density: float) -> None:
    if options.gate not in ("1x1", "kxk", "grid"):
        raise UserError(f'gate is "1x1", "kxk" or "grid", not {shown(options.gate)}')
    if isinstance(density, bool) or not isinstance(density, Real) or not 0 <= density <= 1:
        raise UserError(f"density is the fraction of open pixels, between 0 and 1, not {shown(density)}")
    with torch.device("meta"):
        # This fails for options that no convolution can have.
        layer_like(nn.Conv2d(1, 1, 3, padding=1), options)


def _survey(model: nn.Module, traced: NetworkTrace, work: Work | None, options: GateOptions) -> list[ConvInfo]:
    """Describe every convolution in order of execution, then those that are never called."""
    names: dict[nn.Module, str] = {module: name for name, module in model.named_modules()}
    tree = Tree(model)
    every = [module for module in names if isinstance(module, nn.Conv2d)]
    found = []
    for conv in [*traced.order, *(c for c in every if c not in traced.order)]:
        name, norm = names[conv], traced.norms.get(conv)
        info = ConvInfo(
            name,
            tree.block_of(name),
            conv.in_channels,
            conv.out_channels,
            (conv.kernel_size[0], conv.kernel_size[1]),
            (conv.stride[0], conv.stride[1]),
            conv.groups,
            traced.roles.get(conv, ""),
            None if norm is None else names[norm],
            _refusal(conv, traced) or (None if work is None or name in work.macs else "not called for the example"),
            None if work is None else work.macs.get(name, 0),
            dilation=(conv.dilation[0], conv.dilation[1]),
        )
        found.append(_with_gate(info, conv, work, options))
    return found


def _refusal(conv: nn.Conv2d, traced: NetworkTrace) -> str | None:
    """Return why the convolution cannot have a gate of any kind; None where it can."""
    kind = type(conv)
    if conv.groups != 1:
        return "depthwise" if conv.groups == conv.in_channels else f"{conv.groups} groups"
    if conv.padding_mode != "zeros":
        return f"padding_mode {conv.padding_mode!r}"
    if isinstance(conv, nn.LazyConv2d):
        return "no weights yet: run the network once"
    if not computes_as_conv2d(conv) or "forward" in vars(conv):
        return f"{kind.__name__} has a forward of its own"
    if has_hooks(conv) or parametrize.is_parametrized(conv):
        return "hooks or a parametrization on it"
    if is_set_from_outside(conv):
        return "other code computes its weight or bias"
    if conv in traced.read_elsewhere:
        return "code reads its weights"
    return None if conv in traced.order else "not called in eval mode"


def _with_gate(info: ConvInfo, conv: nn.Conv2d, work: Work | None, options: GateOptions) -> ConvInfo:
    """Return the info with its gate's MACs, or with the reason why this gate does not fit."""
    if info.refusal is not None:
        return info
    try:
        with torch.device("meta"):
            gate = layer_like(conv, options).gate
    except UserError as error:
        return replace(info, refusal=error.message)
    if work is None or gate is None:
        return info
    _, c, r, s = gate.conv.weight.shape
    sizes = [grid_hw(hw, options.gate_size) for hw in work.output_hw.get(info.name, ())]
    role: ConvRole = "pixel" if not info.role and set(work.output_hw.get(info.name, ())) == {(1, 1)} else info.role
    return replace(info, role=role, gate_macs=sum(gate_macs((1, r, s, c), hw) for hw in sizes))


def _converted(
    model: ModelT, entries: Sequence[LayerRecipe], inputs: Inputs | None, work: Work | None, inplace: bool
) -> ModelT:
    """Gate the layers; with an example input, compare the outputs with those from before."""
    converted = model if inplace else _copy(model)
    undo = gate_layers(converted, entries)
    if inputs is not None and work is not None:
        layers = {entry.conv: converted.get_submodule(entry.conv) for entry in entries}
        low = any(p.dtype in LOW_PRECISION for p in converted.parameters())
        try:
            with calls(layers) as called, plain_maths(converted, "as built") if low else nullcontext():
                outputs = _run_converted(converted, inputs)
            _require_called(layers, called)
            require_same_outputs(work.outputs, outputs, TOLERANCE_LOW_PRECISION if low else TOLERANCE)
        except BaseException:  # including an interrupt
            undo()
            raise
    return converted


def _run_converted(model: nn.Module, inputs: Inputs) -> tuple[Tensor, ...]:
    """Run a converted network, and say which layer its code reads from where that makes it fail."""
    try:
        return run(model, inputs)
    except UserError as error:
        cause = error.__cause__
        if not isinstance(cause, AttributeError) or not isinstance(cause.obj, (nn.Identity, LCCLConv2d)):
            raise
        name = next((name for name, module in model.named_modules() if module is cause.obj), "a layer")
        raise UserError(
            f"the network's code reads {cause.name} of {name}, which a gated layer has replaced; give where as a "
            "list of the convolutions to convert, without that one"
        ) from error


def _require_called(layers: Iterable[str], called: Container[str]) -> None:
    idle = [name for name in layers if name not in called]
    if idle:
        raise UserError(
            f"the network's code does not call {idle[0]} under its name ({count(len(idle), 'such layer')}), so a gate there "
            "does nothing: call the attribute itself, or give where as a list of other layers"
        )


def _copy(model: ModelT) -> ModelT:
    """Copy the network, with the mode of each of its modules, which torch.fx's copies lose."""
    with torch.no_grad():
        for module in model.modules():
            refresh(module)  # what weight_norm keeps has a history, and such a tensor cannot be copied
    try:
        copied = copy.deepcopy(model)
    except Exception as error:  # tensors with a history, locks, file handles
        raise UserError(f"the network cannot be copied ({type(error).__name__}): convert it with inplace=True") from error
    modes = {name: module.training for name, module in model.named_modules(remove_duplicate=False)}
    set_modes({module: modes.get(name, model.training) for name, module in copied.named_modules()})
    return copied
