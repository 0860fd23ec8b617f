"""A whole training to a density over Lightning Fabric: one process or many, and after a kill."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lccl.console.progress import Progress, silent
from lccl.console.text import percent, table
from lccl.errors import UserError
from lccl.errors.arguments import CALLABLE, COUNT, FILE, FLAG, MODULE, NONE, NUMBER, VALUES_BY_NAME, WHOLE, takes
from lccl.errors.requires import needing
from lccl.files import atomic_path, require_file, require_writable
from lccl.torch_calls import evaluating, mean_over_processes, set_modes
from lccl.train.budget import Budget
from lccl.train.gates import frozen_norms, parameter_groups
from lccl.train.losses import distillation_loss
from lccl.train.schedule import BUDGET, DensitySchedule

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Loss = Callable[[Tensor, Tensor], Tensor]
_FORMAT = "lccl-training"
_LOG_EVERY = 20


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave."""

    loss: float
    """The mean over its steps."""
    density: float
    """The mean over the gates, of its last batches."""
    score: float | None


@dataclass(frozen=True)
class FitResult:
    """A finished training."""

    epochs: tuple[Epoch, ...]
    densities: Mapping[str, float]
    """Of the last batches, by layer."""
    stopped_early: bool
    resumed_at: int
    """The step at which this call went on; 0 where it began."""

    @property
    def score(self) -> float | None:
        """The last score."""
        return self.epochs[-1].score if self.epochs else None

    def as_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return {
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "densities": dict(self.densities),
            "stopped_early": self.stopped_early,
            "resumed_at": self.resumed_at,
        }

    def __str__(self) -> str:
        rows = [
            (str(i), f"{e.loss:.4f}", percent(e.density), "-" if e.score is None else f"{e.score:.4f}")
            for i, e in enumerate(self.epochs, 1)
        ]
        return table(("epoch", "loss", "density", "score"), rows, right=(0, 1, 2, 3))


@takes(
    model=MODULE,
    epochs=COUNT,
    target=NUMBER | VALUES_BY_NAME | BUDGET,
    loss=CALLABLE,
    lr=NUMBER,
    weight_decay=NUMBER,
    warm_up=NUMBER,
    anneal=NUMBER,
    learned=FLAG,
    teacher=MODULE | NONE,
    teacher_weight=NUMBER,
    score=CALLABLE | NONE,
    patience=COUNT | NONE,
    checkpoint=FILE | NONE,
    save_every=COUNT | NONE,
    log_folder=FILE | NONE,
    channels_last=FLAG,
    compiled=FLAG,
    freeze_norms=FLAG,
    seed=WHOLE,
    progress=CALLABLE,
)
def fit(
    model: nn.Module,
    batches: Iterable[Sequence[Tensor]],
    *,
    epochs: int,
    target: float | Mapping[str, float] | Budget,
    loss: Loss = F.cross_entropy,
    lr: float = 0.05,
    weight_decay: float = 1e-4,
    warm_up: float = 0.3,
    anneal: float = 0.5,
    learned: bool = False,
    teacher: nn.Module | None = None,
    teacher_weight: float = 1.0,
    score: Callable[[nn.Module], float] | None = None,
    patience: int | None = None,
    checkpoint: str | Path | None = None,
    save_every: int | None = None,
    log_folder: str | Path | None = None,
    channels_last: bool = False,
    compiled: bool = False,
    freeze_norms: bool = False,
    seed: int = 0,
    fabric: Fabric | None = None,
    progress: Progress = silent,
) -> FitResult:
    """Train a network with gates to a density, and go on where a run before was ended.

    SGD with Nesterov's momentum, a one-cycle learning rate, a :class:`DensitySchedule` whose
    statistics are frozen in the last epoch, and distillation where a teacher is given. For anything
    else, write the loop: the schedule takes two lines of it.

    The random numbers of an epoch depend on the seed and the epoch alone, so a run that is ended
    at any time and called again with the same arguments gives the numbers of one that was not, on
    the same machine. That holds for what draws from PyTorch's, NumPy's and Python's global
    generators, and from those of the DataLoader and its sampler; not for a generator that a data
    set or a loss keeps for itself.

    Args:
        model: the network, which is trained in place and left in eval mode.
        batches: pairs of inputs and targets, the same number in each epoch: a DataLoader, whose
            samples are divided between processes and whose workers end with each epoch, or any
            iterable that can be run again.
        epochs: passes over the batches.
        target, learned: as for :class:`DensitySchedule`.
        loss: called with outputs and targets; a mean over samples.
        lr, weight_decay: the largest learning rate, and the weight decay; see
            :func:`parameter_groups`.
        warm_up: the fraction of all steps in which the learning rate rises; it falls in the rest.
        anneal: the fraction of all steps in which densities go from open to the target.
        teacher: the dense network, whose outputs are learned too (:func:`distillation_loss`); it is
            moved to the device.
        teacher_weight: the weight of that term.
        score: called with the network in eval mode after each epoch; higher is better.
        patience: epochs without a better score, at the target density, after which one more epoch
            with frozen statistics ends the training.
        checkpoint: the file that holds the state of the run, written after each epoch.
        save_every: also write it every so many steps.
        log_folder: scalars for TensorBoard go there.
        channels_last: whether network and images are in that memory format.
        compiled: whether ``torch.compile`` compiles the network.
        freeze_norms: whether all norms keep their running statistics and normalize with them, for
            networks that were trained before; :func:`fit_gates` gives gates such statistics. Two
            processes then give the numbers of one.
        seed: of all random numbers.
        fabric: devices, processes and precision: a ``lightning_fabric.Fabric`` of yours; None: one
            process on the CPU, or on the GPU where there is one.
        progress: called with each step.

    Raises:
        UserError: lightning-fabric is not installed, there is no batch, or the checkpoint is of
            another run.
    """
    with needing("lccl.train.fit"):
        from lightning_fabric import Fabric, seed_everything
    if patience is not None and score is None:
        raise UserError("patience counts epochs without a better score, so it needs a score")
    if not 0 < warm_up < 1:
        raise UserError(f"warm_up is a fraction of the steps, above 0 and below 1, not {warm_up}")
    if not 0 < anneal <= 1:
        raise UserError(f"anneal is a fraction of the steps, above 0 and up to 1, not {anneal}")
    if checkpoint is not None:
        require_writable(checkpoint)
    if isinstance(batches, DataLoader) and batches.persistent_workers:
        raise UserError(
            "workers that live across epochs keep random numbers that no checkpoint has: build the DataLoader with "
            "persistent_workers=False"
        )
    run = fabric or Fabric(accelerator="auto", devices=1)
    run.launch()
    seed_everything(seed, verbose=False)
    loader: Any = run.setup_dataloaders(batches) if isinstance(batches, DataLoader) else batches
    per_epoch = _steps_of(loader)
    memory = torch.channels_last if channels_last else torch.preserve_format
    model.to(run.device, memory_format=memory)  # type: ignore[call-overload]
    schedule = DensitySchedule(
        model.train(),
        target,
        max(1, round(anneal * epochs * per_epoch)),
        learned=learned,
        freeze_after=(epochs - 1) * per_epoch if epochs > 1 else None,
    )
    identity = {
        "epochs": epochs,
        "batches": per_epoch,
        "batch size": getattr(batches, "batch_size", None),
        "processes": run.world_size,
        "seed": seed,
        "target": _plain(target),
        "learned": learned,
        "anneal": anneal,
        "lr": lr,
        "weight_decay": weight_decay,
        "warm_up": warm_up,
        "teacher_weight": teacher_weight if teacher is not None else None,
        "freeze_norms": freeze_norms,
    }
    modes = {} if teacher is None else {module: module.training for module in teacher.modules()}
    try:
        return _trained(
            run,
            model,
            loader,
            schedule,
            identity,
            _Settings(
                epochs,
                per_epoch,
                loss,
                lr,
                weight_decay,
                warm_up,
                teacher,
                teacher_weight,
                score,
                patience,
                checkpoint,
                save_every,
                log_folder,
                memory,
                compiled,
                freeze_norms,
                seed,
                progress,
            ),
        )
    finally:
        schedule.close()
        set_modes(modes)
        model.eval()


@dataclass(frozen=True)
class _Settings:
    """The arguments of a training."""

    epochs: int
    per_epoch: int
    loss: Loss
    lr: float
    weight_decay: float
    warm_up: float
    teacher: nn.Module | None
    teacher_weight: float
    score: Callable[[nn.Module], float] | None
    patience: int | None
    checkpoint: str | Path | None
    save_every: int | None
    log_folder: str | Path | None
    memory: torch.memory_format
    compiled: bool
    freeze_norms: bool
    seed: int
    progress: Progress


def _trained(
    run: Fabric,
    model: nn.Module,
    loader: Iterable[Sequence[Tensor]],
    schedule: DensitySchedule,
    identity: dict[str, object],
    given: _Settings,
) -> FitResult:
    """Run the epochs that are left."""
    per_epoch, end = given.per_epoch, given.epochs * given.per_epoch
    groups = parameter_groups(model, given.lr, given.weight_decay)
    optimizer: Any = torch.optim.SGD(groups, given.lr, momentum=0.9, nesterov=True)
    largest = [group["lr"] for group in optimizer.param_groups]
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, largest, total_steps=end, pct_start=given.warm_up)
    state = _State(model, optimizer, rates, schedule, run, identity)
    state.load(given.checkpoint)
    resumed_at = state.step
    network: nn.Module = torch.compile(model) if given.compiled else model  # type: ignore[assignment]
    network, optimizer = run.setup(network, optimizer)
    teacher = given.teacher
    if teacher is not None:
        teacher = teacher.eval().to(run.device, memory_format=given.memory)  # type: ignore[call-overload]
    writer = _writer(given.log_folder, run.is_global_zero)
    while state.step < min(end, state.ends):
        if state.ends < end:
            schedule.freeze()
        epoch, done = divmod(state.step, per_epoch)
        model.train()
        if given.freeze_norms:
            frozen_norms(model)
        for i, batch in _shuffled(loader, given.seed, epoch, done, state):
            given.progress(f"epoch {epoch + 1} of {given.epochs}", i, per_epoch)
            x = batch[0].to(run.device, memory_format=given.memory if batch[0].dim() == 4 else torch.preserve_format)
            outputs = network(x)
            value = given.loss(outputs, batch[1].to(run.device))
            if teacher is not None:
                with torch.no_grad(), run.autocast():
                    taught = teacher(x)
                value = value + given.teacher_weight * distillation_loss(outputs, taught)
            optimizer.zero_grad()
            run.backward(value)
            optimizer.step()
            rates.step()
            schedule.step()
            state.took(float(mean_over_processes(value.detach().float())))
            if state.step % _LOG_EVERY == 0:
                writer("loss", state.sum / state.steps, state.step)
                writer("lr", float(rates.get_last_lr()[0]), state.step)
            if given.save_every is not None and state.step % given.save_every == 0 and state.step % per_epoch:
                state.save(given.checkpoint)
        if state.step != (epoch + 1) * per_epoch:
            raise UserError(
                f"an epoch gave {state.step - epoch * per_epoch} batches and the first count gave {per_epoch}: give a DataLoader, "
                "or a list"
            )
        found = None
        if given.score is not None:
            with evaluating(model), torch.no_grad():
                found = float(mean_over_processes(torch.tensor(float(given.score(model)), device=run.device)))
        state.end_epoch(found)
        for name, density in schedule.densities.items():
            writer(f"density/{name}", density, state.step)
        writer("density", state.epochs[-1].density, state.step)
        if found is not None:
            writer("score", found, state.step)
        if state.has_stopped(given.patience):
            state.ends = min(state.ends, state.step + per_epoch)
        state.save(given.checkpoint)
    return FitResult(tuple(state.epochs), schedule.densities, state.ends < end, resumed_at)


class _State:
    """All that a run is: weights, optimizer, rates, densities, random numbers, what epochs gave."""

    def __init__(
        self, model: nn.Module, optimizer: Any, rates: Any, schedule: DensitySchedule, run: Fabric, identity: dict[str, object]
    ) -> None:
        self._parts: dict[str, Any] = {
            "model": model,
            "optimizer": optimizer,
            "rates": rates,
            "schedule": schedule,
            "precision": run.strategy.precision,  # with the scale of float16's gradients
        }
        self._run = run
        self._identity = identity
        self._schedule = schedule
        self.random: dict[str, Any] | None = None
        """Of a step within an epoch that was loaded."""
        self.epochs: list[Epoch] = []
        self.step, self.steps, self.sum = 0, 0, 0.0
        self.ends: float = math.inf
        """The step at which the run ends early."""
        self._best, self._since = -math.inf, 0

    def took(self, loss: float) -> None:
        """Count a step."""
        self.step, self.steps, self.sum = self.step + 1, self.steps + 1, self.sum + loss

    def end_epoch(self, score: float | None) -> None:
        """Count an epoch."""
        densities = list(self._schedule.densities.values())
        self.epochs.append(Epoch(self.sum / self.steps, sum(densities) / len(densities), score))
        self.steps, self.sum = 0, 0.0
        if score is not None and self._schedule.arrived:
            better = score > self._best
            self._best, self._since = max(self._best, score), 0 if better else self._since + 1

    def has_stopped(self, patience: int | None) -> bool:
        """Return whether the score has not become better for so many epochs."""
        return patience is not None and self._since >= patience

    def save(self, path: str | Path | None) -> None:
        """Write the state, the whole file or none of it."""
        if path is None:
            return
        drawn = _of_all_processes(_random_state(), self._run.world_size)
        if self._run.is_global_zero:
            content = {
                "format": _FORMAT,
                "identity": self._identity,
                "parts": {name: part.state_dict() for name, part in self._parts.items()},
                "random": drawn,
                "epochs": [asdict(epoch) for epoch in self.epochs],
                "counts": [self.step, self.steps, self.sum, self.ends, self._best, self._since],
            }
            with atomic_path(path) as temporary:
                torch.save(content, temporary)
        self._run.barrier()

    def load(self, path: str | Path | None) -> None:
        """Go on from a file, if there is one.

        Raises:
            UserError: it is no state of a run, or of one with other arguments.
        """
        if path is None or not Path(path).exists():
            return
        file = require_file(path)
        try:
            content = torch.load(file, map_location=self._run.device, weights_only=True)
        except Exception:
            content = None
        if not isinstance(content, Mapping) or content.get("format") != _FORMAT:
            raise UserError(f"{file} is not the state of a training: name another file, which will be written")
        before = content["identity"]
        other = [name for name, value in self._identity.items() if name not in before or before[name] != value]
        if other:
            raise UserError(
                f"{file} is the state of a training with other arguments ({', '.join(other)}): call with the same ones, or name "
                "another file"
            )
        try:
            for name, part in self._parts.items():
                part.load_state_dict(content["parts"][name])
        except (RuntimeError, ValueError) as error:
            raise UserError(f"{file} is the state of a training of another network: name another file") from error
        self.random = content["random"][self._run.global_rank]
        self.epochs = [Epoch(**epoch) for epoch in content["epochs"]]
        self.step, self.steps, self.sum, self.ends, self._best, self._since = content["counts"]


def _plain(target: float | Mapping[str, float] | Budget) -> object:
    """Return a target as plain values, which a checkpoint can hold."""
    if isinstance(target, Budget):
        return {"limit": target.limit, "fixed": target.fixed, "costs": dict(target.costs)}
    return dict(target) if isinstance(target, Mapping) else float(target)


def _of_all_processes(own: dict[str, Any], count: int) -> list[Any]:
    """Return what each process has, by rank."""
    if count == 1:
        return [own]
    found: list[Any] = [None] * count
    torch.distributed.all_gather_object(found, own)
    return found


def _steps_of(loader: Iterable[object]) -> int:
    try:
        count = len(loader)  # type: ignore[arg-type]
    except TypeError:
        count = sum(1 for _ in loader)
    if not count:
        raise UserError("there is no batch to train on")
    return count


def _shuffled(
    loader: Iterable[Sequence[Tensor]], seed: int, epoch: int, done: int, state: _State
) -> Iterator[tuple[int, Sequence[Tensor]]]:
    """Give the batches of an epoch that are left, with the random numbers that they had before."""
    _seed(seed + 1_000_003 * (epoch + 1))
    batch_sampler = getattr(loader, "batch_sampler", None)
    samplers = [getattr(loader, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None)]
    for part in (loader, *samplers):
        if isinstance(getattr(part, "generator", None), torch.Generator):
            part.generator.manual_seed(seed + 1_000_003 * (epoch + 1))  # type: ignore[union-attr]
        if hasattr(part, "set_epoch"):
            part.set_epoch(epoch)  # type: ignore[union-attr]
    if hasattr(loader, "_num_iter_calls"):  # Fabric's loader counts its own epochs, from 0 in a new process
        loader._num_iter_calls = epoch
    batches = iter(loader)
    for _ in range(done):
        next(batches, None)
    if done and state.random is not None:
        _set_random_state(state.random)  # before the next batch, which may draw
        state.random = None
    yield from enumerate(batches, done)


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def _random_state() -> dict[str, Any]:
    version, numbers, gauss = random.getstate()
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": [version, list(numbers), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys, np.int64)), *rest],
    }


def _set_random_state(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"]:
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))


def _write_nothing(_name: str, _value: float, _step: int) -> None:
    """Write no scalar."""


def _writer(folder: str | Path | None, here: bool) -> Callable[[str, float, int], None]:
    """Return what writes a scalar for TensorBoard, or does nothing."""
    if folder is None or not here:
        return _write_nothing
    with needing("lccl.train.fit"):
        from tensorboardX import SummaryWriter

    writer = SummaryWriter(str(folder))

    def write(name: str, value: float, step: int) -> None:
        writer.add_scalar(name, value, step)
        writer.flush()

    return write
