"""Tracing of a network by torch.fx: its convolutions' order, roles, and following norms.

Where a module's ``forward`` cannot be traced, each of its parts is traced by itself, and the parts
count in the order in which they are registered. What follows a convolution outside of such a part
is then unknown.

Eval mode gives the order and the roles. A norm moves into a gated layer only if it follows its
convolution alone in training mode too, so that the gated network with open gates computes what the
dense one does in both modes.
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
from lccl.nn.converting.structure import ConvRole
from lccl.torch_calls import evaluating, unchanged

_ADDITIONS = ("add", "iadd", "add_")
_ELEMENTWISE = ("relu", "relu_", "silu", "hardswish", "gelu", "sigmoid")
_ELEMENTWISE_MODULES = tuple(f"torch.nn.modules.{name}" for name in ("activation", "batchnorm", "dropout"))
_ONE = (1, (1, 1), [1, 1])
_TO_SIZE = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
_SHORTCUT_NAMES = ("downsample", "shortcut", "skip")
_FOLDABLE_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


@dataclass(frozen=True)
class NetworkTrace:
    """What tracing found about a network's convolutions."""

    order: tuple[nn.Conv2d, ...]
    """The convolutions that ``forward`` calls in eval mode, in order of their first call."""
    norms: Mapping[nn.Conv2d, nn.Module]
    """By convolution, the BatchNorm that alone reads it and reads nothing else, in eval mode and in
    training mode."""
    roles: Mapping[nn.Conv2d, ConvRole]
    read_elsewhere: frozenset[nn.Module]
    """Modules whose weights are read by code besides being called."""
    kept_outside: Mapping[nn.Conv2d, str]
    """By convolution, the name of the norm that only training mode keeps from moving into the gated
    layer."""
    notes: tuple[str, ...]
    """Warnings about code that could not be traced."""
    training_notes: tuple[str, ...]
    """Warnings about code that could be traced in eval mode only."""

    def notes_on(self, convs: Iterable[nn.Conv2d]) -> tuple[str, ...]:
        """Return the warnings that concern a caller who gates those convolutions."""
        outside = [self.kept_outside[conv] for conv in convs if conv in self.kept_outside]
        if not outside or self.training_notes:
            return self.notes + (self.training_notes if outside else ())
        stay = "stays" if len(outside) == 1 else "stay"
        return (*self.notes, f"{_listed(outside)} {stay} after the gate, because training runs other code there")


def trace(model: nn.Module) -> NetworkTrace:
    """Trace a network in eval mode and in training mode, without running its layers."""
    reader, training = _Reader(model), _Reader(model)
    with evaluating(model), _preserved_buffers(model), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from code that runs on proxies
        reader.visit(model, "")
        model.train()
        frozen = {module for module in model.modules() if not module.training}
        training.visit(model, "")
    return reader.result(training, frozen)


@contextmanager
def _preserved_buffers(model: nn.Module) -> Iterator[None]:
    """Restore buffers after the block, because tracing runs code that changes them."""
    saved = [(b, b.clone()) for b in model.buffers() if not is_lazy(b)]
    try:
        yield
    finally:
        for buffer, before in saved:
            if not buffer.is_meta and not torch.equal(buffer, before):
                buffer.copy_(before)


def has_hooks(module: nn.Module) -> bool:
    """Return whether forward or backward hooks are registered on the module."""
    return any((module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks))


class _Proxy(fx.Proxy):
    """A proxy that answers ``len`` with a TypeError, which ``list(...)`` accepts."""

    def __len__(self) -> int:
        raise TypeError("the length of a traced value is not known")


class _Tracer(fx.Tracer):
    """A tracer that enters only modules with convolutions in them.

    Every other module is one node.
    """

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002 - fx's own signature
        return isinstance(m, _ConvNd) or not any(isinstance(part, nn.Conv2d) for part in m.modules())

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        """Iterate over a chunked tensor; fx itself supports only unpacking into names."""
        node = obj.node
        if _name_of(node.target) == "chunk" and len(node.args) > 1 and isinstance(node.args[1], int):
            return iter([operator.getitem(obj, i) for i in range(node.args[1])])  # type: ignore[call-overload]
        return super().iter(obj)


class _ModuleGraph:
    """The graph of one module's ``forward``, with the modules that it calls."""

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
        """Return the BatchNorm that alone reads every call of the convolution, and nothing else."""
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
        """Return the nodes that depend on a convolution."""
        found: set[fx.Node] = set()
        for node in self.graph.nodes:
            if any(source in self.convs or source in found for source in node.all_input_nodes):
                found.add(node)
        return found

    def followed_by_weights(self) -> set[fx.Node]:
        """Return the nodes that a parameter, or a module with parameters, depends on."""
        trained = {node for node, module in self.modules.items() if next(module.parameters(), None) is not None}
        found: set[fx.Node] = set()
        for node in reversed(self.graph.nodes):
            for user in node.users:
                if user in trained or user in found or any(source.op == "get_attr" for source in user.all_input_nodes):
                    found.add(node)
        return found

    def is_shortcut(self, node: fx.Node, norm: nn.Module | None) -> bool:
        """Return whether a convolution is added to a path of several from the same input."""
        tip = next(iter(node.users)) if norm is not None else node
        for user in tip.users:
            if user.op != "call_module" and _name_of(user.target) in _ADDITIONS:
                others = [other for other in user.all_input_nodes if other is not tip]
                if any(self._convs_beside(node, other) > 1 for other in others):
                    return True
        return False

    def is_pixel(self, node: fx.Node) -> bool:
        """Return whether a convolution reads a 1 x 1 mean or maximum of the whole map."""
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
        """Count the convolutions between a convolution's input and a node, on paths around it.

        0 if there is no such path.
        """
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
    """Return whether a node reduces height and width to 1 x 1 by a mean or maximum."""
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
    """Return whether only a parameter's type, device or shape is read; a gated layer has those."""
    return all(user.target is getattr and user.args[1] in ("dtype", "device", "shape", "ndim") for user in node.users)


class _Reader:
    """Traces a network in its current mode, as a whole or in parts, and collects the results."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._order: dict[nn.Conv2d, None] = {}
        self._norms: dict[nn.Conv2d, nn.Module] = {}
        self._roles: dict[nn.Conv2d, ConvRole] = {}
        self._graphs: Counter[nn.Module] = Counter()
        self._read_elsewhere: set[nn.Module] = set()
        self._untraceable: dict[str, list[str]] = {}
        self._whole = False

    def visit(self, module: nn.Module, name: str) -> None:
        """Read the module's graph, or the graphs of its parts where it cannot be traced."""
        if type(module).forward is not nn.Module.forward:  # a list of modules has none
            try:
                with unchanged(module):  # code that stores what it computes would store proxies
                    graph = _ModuleGraph(module, _Tracer().trace(module))
                if not set(module.modules()).issuperset(graph.calls):
                    raise ValueError("it creates layers while it runs")
            except Exception as error:  # tracing runs the network's code, which may raise anything
                what = f"{name or 'the network'} ({type(module).__name__})"
                self._untraceable.setdefault(_reason(error), []).append(what)
            else:
                self._whole = module is self._model
                self._read(graph, module)
                return
        for child_name, child in module.named_children():
            if isinstance(child, nn.Conv2d):
                self._order.setdefault(child)
                self._graphs[child] += 1
            elif any(isinstance(part, nn.Conv2d) for part in child.modules()):
                self.visit(child, f"{name}.{child_name}" if name else child_name)

    def _read(self, graph: _ModuleGraph, root: nn.Module) -> None:
        self._graphs.update(graph.calls.keys())
        self._read_elsewhere |= graph.read_elsewhere
        after_convs, followed = graph.after_convs(), graph.followed_by_weights()
        for conv, nodes in graph.calls.items():
            if not isinstance(conv, nn.Conv2d):
                continue
            self._order.setdefault(conv)
            norm = graph.own_norm(conv)
            if norm is not None and not (type(root) is nn.Sequential and not self._whole and _holds(root, conv, norm)):
                # Code that cannot be traced may call the items of a plain sequence one by one.
                self._norms[conv] = norm
            if any(graph.is_shortcut(node, norm) for node in nodes):
                self._roles[conv] = "shortcut"
            elif all(graph.is_pixel(node) for node in nodes):
                self._roles[conv] = "pixel"
            elif self._whole and not after_convs.intersection(nodes):
                self._roles[conv] = "stem"
            elif self._whole and not followed.intersection(nodes):
                self._roles[conv] = "output"

    def result(self, training: _Reader, frozen: Container[nn.Module]) -> NetworkTrace:
        """Combine the readings in eval mode and in training mode.

        Args:
            training: the reader of the same network in training mode, which can keep norms outside
                of gated layers.
            frozen: modules that the network's ``train`` leaves in eval mode; norms among them stay
                outside too.
        """
        if not self._whole:
            self._guess_roles()
        read_elsewhere = self._read_elsewhere | training._read_elsewhere
        once = {conv: norm for conv, norm in self._norms.items() if self._pairs(conv, norm) and norm not in read_elsewhere}
        trained = {conv: norm for conv, norm in once.items() if norm not in frozen}
        moved = {conv: norm for conv, norm in trained.items() if not training._calls(conv, norm) or training._pairs(conv, norm)}
        name_of = {module: name for name, module in self._model.named_modules()}
        outside = {conv: name_of[norm] for conv, norm in once.items() if conv not in moved}
        notes = tuple(_note(reason, names) for reason, names in self._untraceable.items())
        known = {name for names in self._untraceable.values() for name in names}
        untraced = [(reason, [n for n in names if n not in known]) for reason, names in training._untraceable.items()]
        training_notes = tuple(_note(reason, names, " in training mode", "") for reason, names in untraced if names)
        return NetworkTrace(tuple(self._order), moved, self._roles, frozenset(read_elsewhere), outside, notes, training_notes)

    def _calls(self, conv: nn.Conv2d, norm: nn.Module) -> bool:
        """Return whether either of the two is known to be called."""
        return bool(self._graphs[conv] or self._graphs[norm])

    def _pairs(self, conv: nn.Conv2d, norm: nn.Module) -> bool:
        """Return whether the norm alone is known to read the convolution, and nothing else."""
        return self._norms.get(conv) is norm and self._graphs[conv] == self._graphs[norm] == 1

    def _guess_roles(self) -> None:
        """Guess roles from names and channels, in a network that cannot be traced as a whole."""
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
    """Return the first sentence of an error, without fx's advice on tracing."""
    return first_line(error).partition(". ")[0]


def _note(reason: str, names: list[str], mode: str = "", order: str = "layers are taken as registered, and ") -> str:
    return f"{_listed(names)} cannot be traced{mode} ({reason}): {order}norms directly inside stay after the gate"


def _listed(names: list[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _holds(parent: nn.Module, *children: nn.Module) -> bool:
    """Return whether these modules are direct children of the parent."""
    return {*children} <= {*parent.children()}


def _width_read(module: nn.Module) -> int | None:
    """Return how many channels a layer reads; None if that is unknown."""
    for attribute in ("in_channels", "num_features", "in_features", "num_channels"):
        width = getattr(module, attribute, None)
        if isinstance(width, int):
            return width
    return None


def _name_of(target: Any) -> str:
    return target if isinstance(target, str) else getattr(target, "__name__", "")
