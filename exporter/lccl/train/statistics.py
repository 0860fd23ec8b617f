"""Statistics of norms, estimated again after training; kept where they do no harm."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lccl.console.text import percent, table
from lccl.errors import UserError
from lccl.errors.arguments import CALLABLE, MODULE, NONE, one_of, takes
from lccl.nn.gate import Gate
from lccl.torch_calls import evaluating, unwrapped
from lccl.train.batches import batch_list, run_batch, score_of
from lccl.train.gates import gates_of

Norms = Literal["gates", "all"]


@dataclass(frozen=True)
class Recalibration:
    """What new statistics changed; true where they were kept."""

    kept: bool
    score_before: float | None
    """The score with the statistics of training; None where no score was asked for."""
    score_after: float | None
    densities_before: Mapping[str, float]
    """By layer, in eval mode on the given batches."""
    densities_after: Mapping[str, float]
    norms: int
    """The number of norms that were estimated again."""

    def __bool__(self) -> bool:
        return self.kept

    def as_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return {
            **vars(self),
            "densities_before": dict(self.densities_before),
            "densities_after": dict(self.densities_after),
        }

    def __str__(self) -> str:
        rows = [(name, percent(d), percent(self.densities_after[name])) for name, d in self.densities_before.items()]
        scores = "" if self.score_before is None else f" Score: {self.score_before:.4f} before, {self.score_after:.4f} after."
        return (
            table(("gate", "density before", "density after"), rows, right=(1, 2))
            + f"\n{self.norms} norms were estimated again; the new statistics {'are kept' if self.kept else 'were worse, so the old ones stay'}."
            + scores
        )


@takes(model=MODULE, norms=one_of("gates", "all"), score=CALLABLE | NONE)
def recalibrate(
    model: nn.Module,
    batches: Iterable[object],
    *,
    norms: Norms = "gates",
    score: Callable[[nn.Module], float] | None = None,
) -> Recalibration:
    """Estimate the statistics of norms again, with the gates as they are.

    While gates close, running statistics lag behind, so that densities in eval mode differ from
    those of training. New statistics can do harm too: give batches with the transforms of training
    (augmentation included), since a network trained on augmented images lost points where all
    norms were estimated on clean ones, and give a score on held-out data, which decides.

    Args:
        model: a network with gates. Modes and weights stay as they are.
        batches: as for :func:`lccl.profile`: tensors, or pairs whose second item is ignored; some
            dozens are enough, of the size of those of training.
        norms: "gates": those of the gates alone; "all": every BatchNorm of the network.
        score: called with the network in eval mode; higher is better. The new statistics are kept
            where it does not fall. None: they are kept.

    Raises:
        UserError: the network has no such norm, or there is no batch.
    """
    network = unwrapped(model)
    gates = gates_of(network)
    chosen = _norms(network, norms)
    if not chosen:
        raise UserError(
            "the gates have no norms with running statistics, so there is nothing to estimate: gates without a norm have none"
            if norms == "gates"
            else "the network has no BatchNorm with running statistics, so there is nothing to estimate"
        )
    data = batch_list(batches, "no statistics can be estimated")
    with evaluating(network), torch.no_grad():
        before = _densities(network, gates, data)
        score_before = None if score is None else score_of(score, network)
        old = [{name: value.clone() for name, value in norm.named_buffers()} for norm in chosen]
        kept = False
        try:
            with _estimating(chosen, gates.values()):
                _run(network, data)
            after = _densities(network, gates, data)
            score_after = None if score is None else score_of(score, network)
            kept = score_before is None or score_after is None or score_after >= score_before
        finally:
            if not kept:
                for norm, buffers in zip(chosen, old, strict=True):
                    for name, value in buffers.items():
                        norm.get_buffer(name).copy_(value)
    return Recalibration(kept, score_before, score_after, before, after, len(chosen))


def _norms(model: nn.Module, which: Norms) -> list[_BatchNorm]:
    parts = [gate.norm for gate in model.modules() if isinstance(gate, Gate)] if which == "gates" else model.modules()
    return [norm for norm in parts if isinstance(norm, _BatchNorm) and norm.running_mean is not None]


@contextmanager
def _estimating(norms: Sequence[_BatchNorm], gates: Iterable[Gate]) -> Iterator[None]:
    """Let the norms take the mean of all batches' statistics within the block."""
    before = [(norm, norm.momentum, norm.training) for norm in norms]
    frozen = [(gate, gate.frozen) for gate in gates]
    for gate, _ in frozen:
        gate.frozen = False
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum, norm.training = None, True
    try:
        yield
    finally:
        for norm, momentum, training in before:
            norm.momentum, norm.training = momentum, training
        for gate, value in frozen:
            gate.frozen = value


def _densities(model: nn.Module, gates: Mapping[str, Gate], data: Iterable[object]) -> dict[str, float]:
    """Return the density of each gate in eval mode, from its logits."""
    counted = {name: [0.0, 0.0] for name in gates}

    def count(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_gate: nn.Module, _inputs: tuple[Tensor, ...], logits: Tensor) -> None:
            counted[name][0] += float((logits > 0).sum())
            counted[name][1] += logits.numel()

        return hook

    handles = [gate.register_forward_hook(count(name)) for name, gate in gates.items()]
    try:
        _run(model, data)
    finally:
        for handle in handles:
            handle.remove()
    return {name: opened / max(1.0, every) for name, (opened, every) in counted.items()}


def _run(model: nn.Module, data: Iterable[object]) -> None:
    for batch in data:
        run_batch(model, batch)
