"""In which order a network's convolutions run, which norm follows each, and which have a special place; by torch.fx.

Where a module's ``forward`` cannot be traced, each of its parts is traced by itself, and the parts are taken in the order
in which they are registered. What follows a convolution outside of such a part is then unknown.

Eval mode decides, and training mode has a say in the norms: one that there does not follow its convolution alone stays where it
is, so that the gated network, its gates open, computes what the dense one does in both modes.
"""

from __future__ import annotations

import operator
import warnings
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from lccl.errors import first_line
from lccl.nn.converting.structure import Role
from lccl.torch_calls import evaluating, unchanged

_ADDITIONS = ("add", "iadd", "add_")
_ELEMENTWISE = ("relu", "relu_", "silu", "hardswish", "gelu", "sigmoid")
_ELEMENTWISE_MODULES = tuple(f"torch.nn.modules.{name}" for name in ("activation", "batchnorm", "dropout"))
_ONE = (1, (1, 1), [1, 1])
_TO_SIZE = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
_SHORTCUT_NAMES = ("downsample", "shortcut", "skip")
_FOLDABLE_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


@dataclass(frozen=True)
class Flow:
    """What is known of the order of a network's layers."""

    order: tuple[nn.Conv2d, ...]
    """Every convolution that ``forward`` calls in eval mode, in order of the first call."""
    norms: Mapping[nn.Conv2d, nn.Module]
    """A convolution -> the BatchNorm that alone reads it, and reads nothing else, in eval mode and in training mode."""
    roles: Mapping[nn.Conv2d, Role]
    read_elsewhere: frozenset[nn.Module]
    """Modules of which code takes the weights besides calling them."""
    held: Mapping[nn.Conv2d, str]
    """A convolution -> the name of the norm that would move into it but for training mode."""
    notes: tuple[str, ...]
    """What could not be traced, in words."""
    training_notes: tuple[str, ...]
    """What could be traced but for training mode."""

    def notes_on(self, convs: Iterable[nn.Conv2d]) -> tuple[str, ...]:
        """What a caller should know who gates those convolutions."""
        held = [self.held[conv] for conv in convs if conv in self.held]
        if not held or self.training_notes:
            return self.notes + (self.training_notes if held else ())
        return (*self.notes, f"{_listed(held)} stay{'s' * (len(held) == 1)} after the gate, as training runs other code there")


def follow(model: nn.Module) -> Flow:
    """The flow of a network; none of its layers is run."""
    reader, training = _Reader(model), _Reader(model)
    with evaluating(model), _buffers_kept(model), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of code that runs on stand-ins
        reader.visit(model, "")
        model.train()
        frozen = {module for module in model.modules() if not module.training}
        training.visit(model, "")
    return reader.result(training, frozen)


@contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    """Buffers hold after the block what they held before it: tracing runs code on them, such as a counter of steps."""
    held = [(b, b.clone()) for b in model.buffers() if not is_lazy(b)]
    try:
        yield
    finally:
        for buffer, before in held:
            if not buffer.is_meta and not torch.equal(buffer, before):
                buffer.copy_(before)


def has_hooks(module: nn.Module) -> bool:
    """Whether code of the network's owner is called with the module, forward or backward."""
    return any((module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks))


class _Proxy(fx.Proxy):
    """fx's stand-in, of which ``list(...)`` may ask the length in vain."""

    def __len__(self) -> int:
        raise TypeError("the length of a traced value is not known")


class _Tracer(fx.Tracer):
    """Looks into modules that hold convolutions only; all others, whatever they do, are one node."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002 - fx's own signature
        return isinstance(m, _ConvNd) or not any(isinstance(part, nn.Conv2d) for part in m.modules())

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        """A chunked tensor as the list that it is, which fx by itself allows only where it is unpacked into names."""
        node = obj.node
        if _name_of(node.target) == "chunk" and len(node.args) > 1 and isinstance(node.args[1], int):
            return iter([operator.getitem(obj, i) for i in range(node.args[1])])  # type: ignore[call-overload]
        return super().iter(obj)


class _Trace:
    """One graph with the modules that it calls."""

    def __init__(self, root: nn.Module, graph: fx.Graph) -> None:
        self.graph = graph
        self.modules = {n: root.get_submodule(n.target) for n in graph.nodes if n.op == "call_module"}
        self.calls: dict[nn.Module, list[fx.Node]] = {}
        for node, module in self.modules.items():
            self.calls.setdefault(module, []).append(node)
        self.convs = {node for node, module in self.modules.items() if isinstance(module, _ConvNd)}
        reads = [(root.get_submodule(n.target.rpartition(".")[0]), n) for n in graph.nodes if n.op == "get_attr"]
        self.read_elsewhere = {owner for owner, node in reads if not (isinstance(owner, nn.Conv2d) and _asks_kind(node))}

    def own_norm(self, conv: nn.Conv2d) -> nn.Module | None:
        """The BatchNorm that is all that reads every call of the convolution, and that reads nothing else."""
        readers: set[nn.Module | None] = set()
        for node in self.calls[conv]:
            if len(node.users) != 1:
                return None
            readers.add(self.modules.get(next(iter(node.users))))
        norm = readers.pop()
        if readers or not isinstance(norm, _FOLDABLE_NORMS) or type(norm) not in _FOLDABLE_NORMS:
            return None
        alone = all(call.all_input_nodes[0] in self.calls[conv] for call in self.calls[norm])
        fits = norm.running_mean is not None and norm.num_features == conv.out_channels
        return norm if alone and fits and not has_hooks(norm) else None

    def after_convs(self) -> set[fx.Node]:
        """Nodes that some convolution comes before."""
        found: set[fx.Node] = set()
        for node in self.graph.nodes:
            if any(source in self.convs or source in found for source in node.all_input_nodes):
                found.add(node)
        return found

    def followed_by_weights(self) -> set[fx.Node]:
        """Nodes that something trained comes after: a module with parameters, or a parameter in an operation."""
        trained = {node for node, module in self.modules.items() if next(module.parameters(), None) is not None}
        found: set[fx.Node] = set()
        for node in reversed(self.graph.nodes):
            for user in node.users:
                if user in trained or user in found or any(source.op == "get_attr" for source in user.all_input_nodes):
                    found.add(node)
        return found

    def is_shortcut(self, node: fx.Node, norm: nn.Module | None) -> bool:
        """Whether a convolution's result is added to a path of several convolutions from the same input."""
        tip = next(iter(node.users)) if norm is not None else node
        for user in tip.users:
            if user.op != "call_module" and _name_of(user.target) in _ADDITIONS:
                others = [other for other in user.all_input_nodes if other is not tip]
                if any(self._convs_beside(node, other) > 1 for other in others):
                    return True
        return False

    def is_pixel(self, node: fx.Node) -> bool:
        """Whether a convolution reads a mean or maximum over the whole map, by way of layers that keep its size."""
        while len(node.all_input_nodes) == 1:
            module = self.modules.get(node)
            if _pools_all(node, module):
                return True
            if isinstance(module, _ConvNd):
                keeps = set(module.kernel_size) == {1}
            elif module is not None:
                keeps = type(module).__module__ in _ELEMENTWISE_MODULES
            else:
                keeps = _name_of(node.target) in _ELEMENTWISE
            if not keeps:
                return False
            node = node.all_input_nodes[0]
        return False

    def _convs_beside(self, conv: fx.Node, end: fx.Node) -> int:
        """How many convolutions lie between a convolution's input and a node, on paths that do not take it; 0: no such path."""
        source = conv.all_input_nodes[0]
        seen: set[fx.Node] = set()
        ahead, reached = [end], False
        while ahead:
            node = ahead.pop()
            if node is source:
                reached = True
            elif node is not conv and node not in seen:
                seen.add(node)
                ahead.extend(node.all_input_nodes)
        return len(self.convs & seen) if reached else 0


def _pools_all(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether a node takes a mean or maximum over height and width, and keeps both as 1."""
    if module is not None:
        return isinstance(module, _TO_SIZE) and module.output_size in _ONE
    name, second = _name_of(node.target), node.args[1] if len(node.args) > 1 else None
    if name in ("adaptive_avg_pool2d", "adaptive_max_pool2d"):
        return node.kwargs.get("output_size", second) in _ONE
    if name not in ("mean", "amax") or (node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim")) is not True:
        return False
    axes = node.kwargs.get("dim", second)
    return isinstance(axes, (tuple, list)) and sorted(axis % 4 for axis in axes if isinstance(axis, int)) == [2, 3]


def _asks_kind(node: fx.Node) -> bool:
    """Whether all that is read of a parameter is its type, device or shape, which a gated layer's weight has too."""
    return all(user.target is getattr and user.args[1] in ("dtype", "device", "shape", "ndim") for user in node.users)


class _Reader:
    """Traces a network, as a whole or in parts, in the mode that it is in, and collects what the graphs say."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._order: dict[nn.Conv2d, None] = {}
        self._norms: dict[nn.Conv2d, nn.Module] = {}
        self._roles: dict[nn.Conv2d, Role] = {}
        self._graphs: Counter[nn.Module] = Counter()
        self._read_elsewhere: set[nn.Module] = set()
        self._untraceable: dict[str, list[str]] = {}
        self._whole = False

    def visit(self, module: nn.Module, name: str) -> None:
        """Reads the module's graph, or those of its parts where it cannot be traced."""
        if type(module).forward is not nn.Module.forward:  # a list of modules has none
            try:
                with unchanged(module):  # code that keeps what it computes would keep stand-ins
                    trace = _Trace(module, _Tracer().trace(module))
                if not set(module.modules()).issuperset(trace.calls):
                    raise ValueError("it makes layers as it runs")
            except Exception as error:  # tracing runs the network's code on stand-ins, which may raise anything
                what = f"{name or 'the network'} ({type(module).__name__})"
                self._untraceable.setdefault(_reason(error), []).append(what)
            else:
                self._whole = module is self._model
                self._read(trace, module)
                return
        for child_name, child in module.named_children():
            if isinstance(child, nn.Conv2d):
                self._order.setdefault(child)
                self._graphs[child] += 1
            elif any(isinstance(part, nn.Conv2d) for part in child.modules()):
                self.visit(child, f"{name}.{child_name}" if name else child_name)

    def _read(self, trace: _Trace, root: nn.Module) -> None:
        self._graphs.update(trace.calls.keys())
        self._read_elsewhere |= trace.read_elsewhere
        after_convs, followed = trace.after_convs(), trace.followed_by_weights()
        for conv, nodes in trace.calls.items():
            if not isinstance(conv, nn.Conv2d):
                continue
            self._order.setdefault(conv)
            norm = trace.own_norm(conv)
            if norm is not None and not (type(root) is nn.Sequential and not self._whole and _holds(root, conv, norm)):
                self._norms[conv] = norm  # code that cannot be traced may call the items of a plain sequence one by one
            if any(trace.is_shortcut(node, norm) for node in nodes):
                self._roles[conv] = "shortcut"
            elif all(trace.is_pixel(node) for node in nodes):
                self._roles[conv] = "pixel"
            elif self._whole and not after_convs.intersection(nodes):
                self._roles[conv] = "stem"
            elif self._whole and not followed.intersection(nodes):
                self._roles[conv] = "output"

    def result(self, training: _Reader, frozen: Container[nn.Module]) -> Flow:
        """What was read in eval mode, but for norms to which training mode objects, or which the network's ``train`` leaves out."""
        if not self._whole:
            self._guess_roles()
        read_elsewhere = self._read_elsewhere | training._read_elsewhere
        once = {conv: norm for conv, norm in self._norms.items() if self._pairs(conv, norm) and norm not in read_elsewhere}
        trained = {conv: norm for conv, norm in once.items() if norm not in frozen}
        kept = {conv: norm for conv, norm in trained.items() if not training._calls(conv, norm) or training._pairs(conv, norm)}
        name_of = {module: name for name, module in self._model.named_modules()}
        held = {conv: name_of[norm] for conv, norm in once.items() if conv not in kept}
        notes = tuple(_note(reason, names) for reason, names in self._untraceable.items())
        known = {name for names in self._untraceable.values() for name in names}
        untraced = [(reason, [n for n in names if n not in known]) for reason, names in training._untraceable.items()]
        training_notes = tuple(_note(reason, names, " in training mode", "") for reason, names in untraced if names)
        return Flow(tuple(self._order), kept, self._roles, frozenset(read_elsewhere), held, notes, training_notes)

    def _calls(self, conv: nn.Conv2d, norm: nn.Module) -> bool:
        """Whether one of the two is called as far as is known."""
        return bool(self._graphs[conv] or self._graphs[norm])

    def _pairs(self, conv: nn.Conv2d, norm: nn.Module) -> bool:
        """Whether the norm is known to be all that reads the convolution, and to read nothing else."""
        return self._norms.get(conv) is norm and self._graphs[conv] == self._graphs[norm] == 1

    def _guess_roles(self) -> None:
        """Roles in a network that cannot be traced as a whole, by names and channels."""
        names = {module: name for name, module in self._model.named_modules()}
        widths = {_width_read(module) for module in self._model.modules()}
        for i, conv in enumerate(self._order):
            if i == 0:
                self._roles[conv] = "stem"
            elif any(word in names[conv].lower() for word in _SHORTCUT_NAMES):
                self._roles.setdefault(conv, "shortcut")
            elif conv.bias is not None and conv not in self._norms and conv.out_channels not in widths:
                self._roles.setdefault(conv, "output")  # no layer reads that many channels


def _reason(error: Exception) -> str:
    """The first sentence: fx goes on with advice on tracing."""
    return first_line(error).partition(". ")[0]


def _note(reason: str, names: list[str], mode: str = "", order: str = "layers are taken as registered, and ") -> str:
    return f"{_listed(names)} cannot be traced{mode} ({reason}): {order}norms directly inside stay after the gate"


def _listed(names: list[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _holds(parent: nn.Module, *children: nn.Module) -> bool:
    """Whether these are direct parts of the module."""
    return {*children} <= {*parent.children()}


def _width_read(module: nn.Module) -> int | None:
    """How many channels a layer reads, if it is one."""
    for attribute in ("in_channels", "num_features", "in_features", "num_channels"):
        width = getattr(module, attribute, None)
        if isinstance(width, int):
            return width
    return None


def _name_of(target: Any) -> str:
    return target if isinstance(target, str) else getattr(target, "__name__", "")
