"""One training step: losses, gradients, clipping, update, log."""

import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from torch import Tensor, nn

from . import signals

logger = logging.getLogger(__name__)

_SIGNAL = (
    "signal_to_end"  # among the scalars of a step, the signal that asks this rank to end, or 0
)


class Trainer(SimpleTrainer):
    """detectron2's `SimpleTrainer` with clipping, mixed precision and repeatable random numbers.

    The random numbers of a step are a function of the seed, the rank and the iteration. So a
    resumed run draws what an uninterrupted one would, whatever evaluation or logging drew between.

    The model returns a flat dict of weighted scalar losses. Values whose name lacks "loss" are
    logged, but not optimized.

    Args:
        model: in training mode afterwards; may be wrapped for distributed training.
        data_loader: endless batches; the attribute may be replaced until training starts.
        optimizer: of the model's parameters.
        seed: of the run, >= 0.
        clip_grad: arguments of `torch.nn.utils.clip_grad_norm_`, e.g. max_norm; None does not clip.
        amp_dtype: precision of the forward pass: torch.bfloat16, or torch.float16, then the loss is
            scaled; None for full precision.

    Attributes:
        stop_agreed: whether a signal had asked any rank to end when it finished its last step; the
            same on all ranks. Nothing follows from it here, see `StopOnSignal`.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Any],
        optimizer: torch.optim.Optimizer,
        *,
        seed: int = 0,
        clip_grad: Mapping[str, Any] | None = None,
        amp_dtype: torch.dtype | None = None,
    ):
        super().__init__(model, data_loader, optimizer)
        self.seed = seed
        self.clip_grad = dict(clip_grad) if clip_grad is not None else None
        self.amp_dtype = amp_dtype
        self._device_type = next(model.parameters()).device.type
        # without float16 it passes everything through
        self.grad_scaler = torch.amp.GradScaler(
            self._device_type, enabled=amp_dtype is torch.float16
        )
        self._batches: Iterator[Any] | None = None
        self.stop_agreed = False

    def run_step(self) -> None:
        if not self.model.training:
            raise RuntimeError("the model was left in evaluation mode: call model.train() again")
        seed_all_rng(step_seed(self.seed, comm.get_rank(), self.iter))
        start = time.perf_counter()
        if self._batches is None:
            self._batches = iter(self.data_loader)
        batch = next(self._batches)
        data_time = time.perf_counter() - start

        with torch.autocast(
            self._device_type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None
        ):
            outputs = self.model(batch)
        losses = [value for name, value in outputs.items() if is_loss(name)]
        if not losses:
            raise ValueError(
                f"the model returned no loss: none of {list(outputs)} has 'loss' in its name"
            )
        total = sum(losses)

        self.optimizer.zero_grad()
        self.grad_scaler.scale(total).backward()
        scalars = {"total_loss": total, **outputs}
        if self.clip_grad is not None:
            self.grad_scaler.unscale_(self.optimizer)
            scalars["grad_norm"] = nn.utils.clip_grad_norm_(
                [p for group in self.optimizer.param_groups for p in group["params"]],
                **self.clip_grad,
            )
        # before the update, so that no checkpoint ever holds weights that are not finite
        self._log(scalars, data_time)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def _log(self, scalars: Mapping[str, Tensor], data_time: float) -> None:
        """Log scalars, averaged over the ranks; refuse losses that are not finite."""
        # travels along, so that all ranks learn in the same step that one of them is to end
        values = self._averaged({**scalars, _SIGNAL: torch.tensor(float(signals.received()))})
        self.stop_agreed = values.pop(_SIGNAL) > 0
        broken = {k: v for k, v in values.items() if is_loss(k) and not math.isfinite(v)}
        if broken:
            # the total only says that some loss is broken
            names = [name for name in broken if name != "total_loss"] or list(broken)
            raise FloatingPointError(
                f"{', '.join(f'{name} is {broken[name]}' for name in names)} "
                f"at iteration={self.iter}; the weights are those of the iteration before. "
                f"All values of this iteration: {values}. Usual causes: a learning rate too high, "
                "float16 where bfloat16 is needed (train.amp.dtype), broken boxes in the data"
            )
        norm = values.get("grad_norm", 0.0)
        if not math.isfinite(norm):
            # scaled losses overflow now and then: the scaler skips the update and adapts
            if not self.grad_scaler.is_enabled():
                raise FloatingPointError(
                    f"the gradient norm is {norm} at iteration={self.iter} although every loss is "
                    f"finite: {values}; the weights are those of the iteration before"
                )
            del values["grad_norm"]
        self.storage.put_scalars(data_time=data_time, **values)

    def _averaged(self, scalars: Mapping[str, Tensor]) -> dict[str, float]:
        """Mean over the ranks of every scalar, by one collective and one copy from the device."""
        device = next(iter(scalars.values())).device
        stacked = torch.stack(
            [
                torch.as_tensor(value, dtype=torch.float32, device=device).detach().reshape(())
                for value in scalars.values()
            ]
        )
        world_size = comm.get_world_size()
        if world_size > 1:
            if self.iter == self.start_iter:
                self._check_names(list(scalars))
            dist.all_reduce(stacked)
            stacked /= world_size
        return dict(zip(scalars, stacked.tolist()))

    @staticmethod
    def _check_names(names: list[str]) -> None:
        for rank, others in enumerate(comm.all_gather(names)):
            if others != names:
                raise RuntimeError(
                    f"rank {rank} has the losses {others}, rank {comm.get_rank()} has {names}: a "
                    "model must return the same losses in the same order whatever its batch holds"
                )

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        if self.grad_scaler.is_enabled():
            state["grad_scaler"] = self.grad_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if self.grad_scaler.is_enabled() and "grad_scaler" in state_dict:
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])


def is_loss(name: str) -> bool:
    """Whether a value of that name is optimized: its name has "loss" in it."""
    return "loss" in name


def step_seed(seed: int, rank: int, iteration: int) -> int:
    """A seed in [0, 2**32) for one step of one process, unrelated to its neighbours'."""
    sequence = np.random.SeedSequence(seed, spawn_key=(rank, iteration))
    return int(sequence.generate_state(1)[0])
