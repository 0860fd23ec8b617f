"""``lccl.nn.convert``: survey a network, choose by a policy, replace, and hold the result against the dense network."""

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

from lccl.errors import UserError
from lccl.nn.conv import LCCLConv2d, Order, plain_maths
from lccl.nn.converting.flow import Flow, follow, has_hooks
from lccl.nn.converting.measure import (
    LOW_PRECISION,
    TOLERANCE,
    TOLERANCE_LOW_PRECISION,
    Example,
    Inputs,
    Work,
    calls,
    hold,
    inputs_of,
    measure,
    run,
)
from lccl.nn.converting.plan import ConversionPlan, PlannedLayer
from lccl.nn.converting.policies import Policy, Where, policy_of
from lccl.nn.converting.recipes import GateOptions, LayerRecipe, gate_layers, layer_like
from lccl.nn.converting.structure import ConvInfo, Role, Tree
from lccl.nn.folded import FoldedLCCLConv2d
from lccl.nn.gate import GateActivation
from lccl.op.contract import gate_macs, grid_hw
from lccl.text import count, kind_of

ModelT = TypeVar("ModelT", bound=nn.Module)
Gate = Literal["1x1", "kxk", "grid"]


@overload
def convert(
    model: ModelT,
    gate: Gate = ...,
    where: Where = ...,
    *,
    gate_size: int = ...,
    gate_kernel_size: int | tuple[int, int] | None = ...,
    gate_activation: GateActivation = ...,
    gate_norm: bool | None = ...,
    order: Order = ...,
    example: Example | None = ...,
    density: float = ...,
    inplace: bool = ...,
    dry_run: Literal[False] = ...,
) -> ModelT: ...


@overload
def convert(
    model: nn.Module,
    gate: Gate = ...,
    where: Where = ...,
    *,
    gate_size: int = ...,
    gate_kernel_size: int | tuple[int, int] | None = ...,
    gate_activation: GateActivation = ...,
    gate_norm: bool | None = ...,
    order: Order = ...,
    example: Example | None = ...,
    density: float = ...,
    inplace: bool = ...,
    dry_run: Literal[True],
) -> ConversionPlan: ...


def convert(
    model: ModelT,
    gate: Gate = "kxk",
    where: Where = "first-of-block",
    *,
    gate_size: int = 1,
    gate_kernel_size: int | tuple[int, int] | None = None,
    gate_activation: GateActivation = "relu",
    gate_norm: bool | None = None,
    order: Order = "paper",
    example: Example | None = None,
    density: float = 0.3,
    inplace: bool = False,
    dry_run: bool = False,
) -> ModelT | ConversionPlan:
    """A dense network with gates on some of its convolutions, open at first: its outputs are the dense network's, in eval mode
    and in training mode.

    A norm that training does not run right behind its convolution alone stays after the gate, and so does one for which that
    cannot be told; a warning says so.

    Args:
        model: any network with ``nn.Conv2d`` layers; its training mode is kept.
        gate, gate_size, gate_kernel_size, gate_activation, gate_norm: of the gates, as in :class:`LCCLConv2d`.
        where: which convolutions get one, of those that the op can do (plain ``nn.Conv2d``, no groups, zero padding):

            * "first-of-block": the first larger than 1 x 1 of each block. This trains best.
            * "all-3x3"; "pointwise": all 1 x 1, as MobileNet's.
            * "paper": all of a block but a leading 1 x 1: both of a basic block, the last two of a bottleneck.
            * "min-channels:64": at least as many input channels and as many output channels. "min-macs:1e7": MACs per image.
            * "regex:layer[34]": the pattern is found in the name. A list of names. A function of a :class:`ConvInfo`.

            All but those of the last line leave out the stem, shortcuts, output layers after which nothing trained
            follows, what gives one channel, and what gives one pixel. Where code of the network cannot be traced, a
            warning says what is not known for that reason.
        order: whether a norm that moves into a layer is before the product ("paper") or after it ("released").
        example: an input (a tensor with its batch, its shape, a list of positional ones or a dict of named ones). The network
            is run on it in eval mode before and after, and the outputs are held against each other within 1e-4 (in lower
            precision 2e-2, norms not folded). Counts MACs.
        density: for the savings in the table.
        inplace: change ``model`` itself instead of a deep copy, whose parameters are new to an optimizer.
        dry_run: change nothing, and return the table.

    Returns:
        The converted network; or, with ``dry_run``, each convolution with the reason for its gate or none.

    Raises:
        UserError: nothing to gate or gated already, options or names that do not fit, outputs that differ; the model is
            then as it was.

    A gate's convolution keeps random weights: seed torch for the same ones again. :mod:`lccl.nn.converting` says where the
    gate is placed; :func:`lccl.nn.gate.open_gate` how it starts open, in training mode too.
    """
    options = GateOptions(gate, gate_size, gate_kernel_size, gate_activation, gate_norm, 0.0, order)
    _require_dense(model)
    _require_options(options, density)
    policy = policy_of(where)
    inputs = None if example is None else inputs_of(example, model)
    work = None if inputs is None else measure(model, inputs)
    plan = _plan(model, options, policy, work, density)
    if dry_run:
        return plan
    if not plan.gated:
        raise UserError(
            f"where={where!r} gates none of the network's {count(len(plan.layers), 'convolution')}: dry_run=True lists why, "
            "and another policy or a list of names may take some"
        )
    for note in plan.notes:
        warnings.warn(note, stacklevel=2)
    entries = [LayerRecipe(layer.name, layer.conv.norm, options) for layer in plan.gated]
    return _converted(model, entries, inputs, work, inplace)


def _plan(model: nn.Module, options: GateOptions, policy: Policy, work: Work | None, density: float) -> ConversionPlan:
    flow = follow(model)
    convs = _survey(model, flow, work, options)
    choices = policy(convs)
    layers = tuple(PlannedLayer(conv, choices[conv.name]) for conv in convs)
    notes = flow.notes_on(model.get_submodule(layer.name) for layer in layers if layer.gated)  # type: ignore[misc]
    return ConversionPlan(layers, options.gate, density, None if work is None else sum(work.macs.values()), notes)


def _require_dense(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise UserError(f"a network to convert is an nn.Module, not {kind_of(model)}")
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.jit.ScriptModule)) or hasattr(
        model, "_orig_mod"
    ):
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
        raise UserError(f'gate is "1x1", "kxk" or "grid", not {options.gate!r}')
    if isinstance(density, bool) or not isinstance(density, Real) or not 0 <= density <= 1:
        raise UserError(f"density is the share of open pixels, between 0 and 1, not {density!r}")
    with torch.device("meta"):
        layer_like(nn.Conv2d(1, 1, 3, padding=1), options)  # options that no convolution can have fail here


def _survey(model: nn.Module, flow: Flow, work: Work | None, options: GateOptions) -> list[ConvInfo]:
    """Every convolution in order of execution; those that are not called last."""
    names: dict[nn.Module, str] = {module: name for name, module in model.named_modules()}
    tree = Tree(model)
    every = [module for module in names if isinstance(module, nn.Conv2d)]
    found = []
    for conv in [*flow.order, *(c for c in every if c not in flow.order)]:
        name, norm = names[conv], flow.norms.get(conv)
        info = ConvInfo(
            name,
            tree.block_of(name),
            conv.in_channels,
            conv.out_channels,
            (conv.kernel_size[0], conv.kernel_size[1]),
            (conv.stride[0], conv.stride[1]),
            conv.groups,
            flow.roles.get(conv, ""),
            None if norm is None else names[norm],
            _refusal(conv, flow) or (None if work is None or name in work.macs else "not called for the example"),
            None if work is None else work.macs.get(name, 0),
        )
        found.append(_with_gate(info, conv, work, options))
    return found


def _refusal(conv: nn.Conv2d, flow: Flow) -> str | None:
    """Why the convolution has to stay as it is, whatever the gate."""
    kind = type(conv)
    if conv.groups != 1:
        return "depthwise" if conv.groups == conv.in_channels else f"{conv.groups} groups"
    if conv.padding_mode != "zeros":
        return f"padding_mode {conv.padding_mode!r}"
    plain = kind.forward is nn.Conv2d.forward and kind._conv_forward is nn.Conv2d._conv_forward
    if isinstance(conv, nn.LazyConv2d):
        return "no weights yet: run the network once"
    if not plain or "forward" in vars(conv):
        return f"{kind.__name__} has a forward of its own"
    if has_hooks(conv) or parametrize.is_parametrized(conv):
        return "hooks or a parametrization on it"
    if conv in flow.read_elsewhere:
        return "code reads its weights"
    return None if conv in flow.order else "not called in eval mode"


def _with_gate(info: ConvInfo, conv: nn.Conv2d, work: Work | None, options: GateOptions) -> ConvInfo:
    """The info with its gate's work, or with the reason why this gate does not fit."""
    if info.refusal is not None:
        return info
    try:
        with torch.device("meta"):
            gate = layer_like(conv, options).gate
    except UserError as error:
        return replace(info, refusal=str(error))
    if work is None or gate is None:
        return info
    _, c, r, s = gate.conv.weight.shape
    sizes = [grid_hw(hw, options.gate_size) for hw in work.output_hw.get(info.name, ())]
    role: Role = "pixel" if not info.role and set(work.output_hw.get(info.name, ())) == {(1, 1)} else info.role
    return replace(info, role=role, gate_macs=sum(gate_macs((1, r, s, c), hw) for hw in sizes))


def _converted(
    model: ModelT, entries: Sequence[LayerRecipe], inputs: Inputs | None, work: Work | None, inplace: bool
) -> ModelT:
    """The network with the layers gated, held against its outputs from before where there is an example."""
    converted = model if inplace else _copy(model)
    undo = gate_layers(converted, entries)
    if inputs is not None and work is not None:
        layers = {entry.conv: converted.get_submodule(entry.conv) for entry in entries}
        low = any(p.dtype in LOW_PRECISION for p in converted.parameters())
        try:
            with calls(layers) as called, plain_maths(converted, "as built") if low else nullcontext():
                outputs = _run_converted(converted, inputs)
            _require_called(layers, called)
            hold(work.outputs, outputs, TOLERANCE_LOW_PRECISION if low else TOLERANCE)
        except BaseException:  # an interrupt too
            undo()
            raise
    return converted


def _run_converted(model: nn.Module, inputs: Inputs) -> tuple[Tensor, ...]:
    """The outputs of a network that ran on the inputs before its conversion."""
    try:
        return run(model, inputs)
    except UserError as error:
        cause = error.__cause__
        if not isinstance(cause, AttributeError) or not isinstance(cause.obj, (nn.Identity, LCCLConv2d)):
            raise
        name = next((name for name, module in model.named_modules() if module is cause.obj), "a layer")
        raise UserError(
            f"the network's code reads {cause.name} of {name}, which a gated layer takes the place of; name the convolutions "
            "to convert in a list as where, without that one"
        ) from error


def _require_called(layers: Iterable[str], called: Container[str]) -> None:
    idle = [name for name in layers if name not in called]
    if idle:
        raise UserError(
            f"the network's code does not call {idle[0]} under its name ({count(len(idle), 'such layer')}), so a gate there "
            "does nothing: call it as the attribute that it is, or name other layers in a list as where"
        )


def _copy(model: ModelT) -> ModelT:
    try:
        return copy.deepcopy(model)
    except Exception as error:  # tensors with a history, locks, handles of files
        raise UserError(f"the network cannot be copied ({type(error).__name__}): convert it with inplace=True") from error
