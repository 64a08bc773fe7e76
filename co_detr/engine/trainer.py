"""One training step: losses, gradients, clipping, update, log."""

import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from fvcore.common.history_buffer import HistoryBuffer
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel

from co_detr.modeling.whole_batch import WholeBatch, asks_for_whole_batch

from . import signals
from .accumulation import communicating, split
from .early_stop import StopTraining
from .fsdp import average_gradients, distributed, whole
from .optimizer_state import fit_optimizer_state, laid_out_like, named_state

logger = logging.getLogger(__name__)

# values that are kept of each scalar
HISTORY = 1000

# among the scalars of a step: the signal that asks this rank to end, or 0
_SIGNAL = "signal_to_end"


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
        accumulate: parts that each batch goes through the model in, see `accumulation`.
        facts: plain values about the run that belong into its checkpoints, see `resuming`.

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
        accumulate: int = 1,
        facts: Mapping[str, Any] | None = None,
    ):
        super().__init__(model, data_loader, optimizer)
        self.seed = seed
        self.clip_grad = dict(clip_grad) if clip_grad is not None else None
        self.amp_dtype = amp_dtype
        self.accumulate = accumulate
        self.facts = dict(facts or {})
        self._device_type = next(model.parameters()).device.type
        # without float16 it passes everything through
        self.grad_scaler = torch.amp.GradScaler(
            self._device_type, enabled=amp_dtype is torch.float16
        )
        self._batches: Iterator[Any] | None = None
        self.stop_agreed = False
        self._asks_for_whole_batch = asks_for_whole_batch(model)

    def train(self, start_iter: int, max_iter: int) -> None:
        """Train from an iteration on, to the last one or until a hook raises `StopTraining`."""
        try:
            super().train(start_iter, max_iter)
        except StopTraining as stop:
            logger.info(f"Training has {stop}")

    def before_train(self) -> None:
        # enough for all windows that writers look at; all values of a long run fill gigabytes
        histories = cast(defaultdict[str, HistoryBuffer], self.storage.histories())
        histories.default_factory = partial(HistoryBuffer, max_length=HISTORY)
        super().before_train()

    def run_step(self) -> None:
        if not self.model.training:
            raise RuntimeError("the model was left in evaluation mode: call model.train() again")
        self._seed(0)
        start = time.perf_counter()
        if self._batches is None:
            self._batches = iter(self.data_loader)
        batch = next(self._batches)
        data_time = time.perf_counter() - start

        self.optimizer.zero_grad()
        scalars = self._accumulate_gradients(split(batch, self.accumulate))
        average_gradients(self.model)
        self.after_backward()
        if self.clip_grad is not None:
            self.grad_scaler.unscale_(self.optimizer)
            norm = nn.utils.clip_grad_norm_(
                [p for group in self.optimizer.param_groups for p in group["params"]],
                **self.clip_grad,
            )
            scalars["grad_norm"] = whole(norm)
        # before the update, so that no checkpoint ever holds weights that are not finite
        self._log(scalars, data_time)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def after_backward(self) -> None:
        """Called before gradients are clipped; detectron2 0.6 has no such method."""
        for hook in self._hooks:
            if hasattr(hook, "after_backward"):
                hook.after_backward()

    def _seed(self, part: int) -> None:
        """Start the random numbers of a part of the current iteration's batch."""
        number = self.iter * self.accumulate + part
        seed_all_rng(step_seed(self.seed, comm.get_rank(), number))

    def _accumulate_gradients(self, parts: list[Any]) -> dict[str, Tensor]:
        """Add up the (scaled) gradients of all parts of a batch.

        Returns:
            "total_loss" and whatever the model returns, of the whole batch.
        """
        whole = self._survey(parts) if len(parts) > 1 and self._asks_for_whole_batch else None
        scalars: dict[str, Tensor] = {}
        for index, part in enumerate(parts):
            with communicating(self.model, last=index == len(parts) - 1):
                with nullcontext() if whole is None else whole.use():
                    outputs = self._forward(self.model, part, index)
                if len(parts) > 1:
                    # losses that know the whole batch add up to its losses, all else is a mean
                    share = len(part) / sum(map(len, parts))
                    outputs = {
                        name: value if whole is not None and is_loss(name) else value * share
                        for name, value in outputs.items()
                    }
                total = sum_of_losses(outputs)
                self.grad_scaler.scale(total).backward()
            for name, value in {"total_loss": total, **outputs}.items():
                value = torch.as_tensor(value).detach()
                scalars[name] = scalars[name] + value if name in scalars else value
        return scalars

    def _survey(self, parts: list[Any]) -> WholeBatch:
        """Let the model see all parts without gradients, and without a trace in its buffers."""
        whole = WholeBatch([example for part in parts for example in part])
        model = unwrapped(self.model)
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        with torch.no_grad(), whole.survey():
            for index, part in enumerate(parts):
                self._forward(lambda part: functional_call(model, buffers, (part,)), part, index)
        return whole

    def _forward(self, model: Callable[[Any], Any], part: Any, index: int) -> dict[str, Tensor]:
        """What a model returns for a part of the batch, with random numbers of the part's own."""
        self._seed(index)
        with torch.autocast(
            self._device_type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None
        ):
            return model(part)

    def _log(self, scalars: Mapping[str, Tensor], data_time: float) -> None:
        """Log scalars, averaged over the ranks; refuse losses that are not finite."""
        # travels along, so that all ranks learn in the same step that one of them is to end
        values: dict[str, Any] = self._averaged(
            {**scalars, _SIGNAL: torch.tensor(float(signals.received()))}
        )
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
        if comm.is_main_process():  # nobody asks the others
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

    def _trained_names(self) -> list[list[str]]:
        """Names of the parameters in the groups of the optimizer."""
        names = {id(p): name for name, p in unwrapped(self.model).named_parameters()}
        return [[names[id(p)] for p in group["params"]] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        state["facts"] = self.facts
        state.update(named_state(self.optimizer, self._trained_names()))
        if self.grad_scaler.is_enabled():
            state["grad_scaler"] = self.grad_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a state; settings of the optimizer stay those of the config."""
        fitting = fit_optimizer_state(state_dict, self.optimizer, self._trained_names())
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        fitting["state"] = {
            number: {name: distributed(parameters[number], value) for name, value in state.items()}
            for number, state in fitting["state"].items()
        }
        super().load_state_dict({**state_dict, "optimizer": fitting})
        for parameter, state in self.optimizer.state.items():
            for name, value in state.items():
                if isinstance(value, Tensor):
                    state[name] = laid_out_like(parameter, value)
        for group in self.optimizer.param_groups:
            group["initial_lr"] = group["lr"]  # where a schedule that goes on begins
        if self.grad_scaler.is_enabled() and "grad_scaler" in state_dict:
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])


def unwrapped(model: nn.Module) -> nn.Module:
    """The model without the wrapper for distributed training."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def sum_of_losses(outputs: Mapping[str, Tensor]) -> Tensor:
    """The sum of a model's weighted losses; a ValueError if it returned none."""
    losses = [value for name, value in outputs.items() if is_loss(name)]
    if not losses:
        raise ValueError(
            f"the model returned no loss: none of {list(outputs)} has 'loss' in its name"
        )
    return cast(Tensor, sum(losses))  # there are some, so not the number 0


def is_loss(name: str) -> bool:
    """Whether a value of that name is optimized: its name has "loss" in it."""
    return "loss" in name


def step_seed(seed: int, rank: int, iteration: int) -> int:
    """A seed in [0, 2**32) for one step of one process, unrelated to its neighbours'."""
    sequence = np.random.SeedSequence(seed, spawn_key=(rank, iteration))
    return int(sequence.generate_state(1)[0])
