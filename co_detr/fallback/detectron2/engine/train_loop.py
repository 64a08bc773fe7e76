"""The training loop, the hooks around its steps, and the standard step."""

import logging
import math
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from detectron2._not_embedded import refuse
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, get_event_storage

logger = logging.getLogger(__name__)


class HookBase:
    """Something that happens around training steps. Every method does nothing by default.

    Attributes:
        trainer: the trainer the hook is registered with, set at registration.
    """

    trainer: "TrainerBase" = None

    def before_train(self) -> None:
        """Called once before the first step."""

    def after_train(self) -> None:
        """Called once after the last step, also when a step failed."""

    def before_step(self) -> None:
        """Called before every step."""

    def after_backward(self) -> None:
        """Called after the backward pass of every step."""

    def after_step(self) -> None:
        """Called after every step."""

    def state_dict(self) -> dict[str, Any]:
        """What belongs into a checkpoint; a hook that overrides it has `load_state_dict` too."""
        return {}


class TrainerBase:
    """A loop over iterations with hooks.

    Attributes:
        iter: the current iteration; equals `max_iter` after a complete training.
        start_iter: the first iteration of this run.
        max_iter: one past the last iteration.
        storage: the `EventStorage` that is current during training.
    """

    def __init__(self) -> None:
        self._hooks: list[HookBase] = []
        self.iter: int = 0
        self.start_iter: int = 0
        self.max_iter: int
        self.storage: EventStorage

    def register_hooks(self, hooks: Iterable[HookBase | None]) -> None:
        """Add hooks, to be called in the order of registration. None is skipped."""
        hooks = [hook for hook in hooks if hook is not None]
        for hook in hooks:
            assert isinstance(hook, HookBase), f"{hook!r} is not a HookBase"
            # hooks and trainer would otherwise keep each other, and the model, alive
            hook.trainer = weakref.proxy(self)
        self._hooks.extend(hooks)

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run iterations start_iter .. max_iter - 1."""
        logger.info("Starting training from iteration %d", start_iter)
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self.before_train()
                for self.iter in range(start_iter, max_iter):
                    self.before_step()
                    self.run_step()
                    self.after_step()
                # tells a complete training from one that ended in an exception
                self.iter = max_iter
            except Exception:
                logger.exception("Exception during training:")
                raise
            finally:
                self.after_train()

    def before_train(self) -> None:
        for hook in self._hooks:
            hook.before_train()

    def after_train(self) -> None:
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.after_train()

    def before_step(self) -> None:
        # the storage follows the loop, so that whatever a step logs is filed under its iteration
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.before_step()

    def after_backward(self) -> None:
        for hook in self._hooks:
            hook.after_backward()

    def after_step(self) -> None:
        for hook in self._hooks:
            hook.after_step()

    def run_step(self) -> None:
        raise NotImplementedError(f"{type(self).__name__} does not define run_step()")

    def state_dict(self) -> dict[str, Any]:
        """The iteration, and the states of the hooks that have one, by class name."""
        state: dict[str, Any] = {"iteration": self.iter}
        hook_states: dict[str, Any] = {}
        for hook in self._hooks:
            hook_state = hook.state_dict()
            if hook_state:
                # of several hooks of one class, the first is kept
                hook_states.setdefault(type(hook).__qualname__, hook_state)
        if hook_states:
            state["hooks"] = hook_states
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned; states of hooks that are gone are only warned of."""
        self.iter = state_dict["iteration"]
        for name, hook_state in state_dict.get("hooks", {}).items():
            for hook in self._hooks:
                if type(hook).__qualname__ == name:
                    hook.load_state_dict(hook_state)
                    break
            else:
                logger.warning("No hook '%s' is registered; its saved state is ignored.", name)


class SimpleTrainer(TrainerBase):
    """One model, one optimizer, one loader: take a batch, sum the losses, step.

    The model returns a dict of scalar losses, or one loss tensor.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Any],
        optimizer: torch.optim.Optimizer,
        gather_metric_period: int = 1,
        zero_grad_before_forward: bool = False,
        async_write_metrics: bool = False,
    ):
        """
        Args:
            model, data_loader, optimizer: see above.
            gather_metric_period: iterations between two that log; the losses of the others are
                not looked at.
            zero_grad_before_forward: whether to let go of the gradients before the forward pass
                instead of after it, for memory.
            async_write_metrics: not supported here, to be left as it is.
        """
        refuse(type(self).__name__, async_write_metrics=async_write_metrics)
        super().__init__()
        model.train()
        self.model = model
        self.data_loader = data_loader
        self.optimizer = optimizer
        self.gather_metric_period = gather_metric_period
        self.zero_grad_before_forward = zero_grad_before_forward
        self._data_loader_iter_obj: Iterator[Any] | None = None

    @property
    def _data_loader_iter(self) -> Iterator[Any]:
        # opened at the first step, not before: worker processes start with the then current state
        if self._data_loader_iter_obj is None:
            self._data_loader_iter_obj = iter(self.data_loader)
        return self._data_loader_iter_obj

    def reset_data_loader(self, data_loader_builder: Callable[[], Iterable[Any]]) -> None:
        """Take batches from another loader from the next step on; the present one goes first."""
        del self.data_loader
        self._data_loader_iter_obj = None
        self.data_loader = data_loader_builder()

    def run_step(self) -> None:
        assert self.model.training, "the model was switched to evaluation mode during training"
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start

        if self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        loss_dict = self.model(data)
        if isinstance(loss_dict, Tensor):
            losses, loss_dict = loss_dict, {"total_loss": loss_dict}
        else:
            losses = sum(loss_dict.values())
        if not self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        losses.backward()
        self.after_backward()
        self._write_metrics(loss_dict, data_time)
        self.optimizer.step()

    def _write_metrics(
        self, loss_dict: Mapping[str, Tensor], data_time: float, prefix: str = ""
    ) -> None:
        """Log the losses, averaged over the ranks, and the longest wait for data, if it is time.

        Raises:
            FloatingPointError: the sum of the losses is not finite.
        """
        if (self.iter + 1) % self.gather_metric_period != 0:
            return
        # one copy from the device, whatever the number of losses
        values = torch.stack([loss.detach().float().reshape(()) for loss in loss_dict.values()])
        metrics = dict(zip(loss_dict, values.tolist()))
        metrics["data_time"] = data_time
        gathered = comm.gather(metrics)
        if not comm.is_main_process():
            return
        storage = get_event_storage()
        storage.put_scalar("data_time", max(rank.pop("data_time") for rank in gathered))
        mean = {name: sum(rank[name] for rank in gathered) / len(gathered) for name in gathered[0]}
        total = sum(mean.values())
        if not math.isfinite(total):
            raise FloatingPointError(
                f"the loss is not finite at iteration={storage.iter}! losses = {mean}"
            )
        storage.put_scalar(f"{prefix}total_loss", total)
        if len(mean) > 1:
            storage.put_scalars(**mean)

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        state["optimizer"] = self.optimizer.state_dict()
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])


class AMPTrainer(SimpleTrainer):
    """A `SimpleTrainer` whose forward pass runs in mixed precision on CUDA."""

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Any],
        optimizer: torch.optim.Optimizer,
        gather_metric_period: int = 1,
        zero_grad_before_forward: bool = False,
        grad_scaler: torch.amp.GradScaler | None = None,
        precision: torch.dtype = torch.float16,
        log_grad_scaler: bool = False,
        async_write_metrics: bool = False,
    ):
        """
        Args:
            model, data_loader, optimizer, gather_metric_period, zero_grad_before_forward,
                async_write_metrics: as for `SimpleTrainer`.
            grad_scaler: scales losses against underflow; None for one with default settings.
            precision: the reduced precision.
            log_grad_scaler: whether to log the scale as "[metric]grad_scaler".
        """
        if isinstance(model, (DataParallel, DistributedDataParallel)):
            assert len(model.device_ids or ()) <= 1, "AMPTrainer drives one device per process"
        super().__init__(
            model,
            data_loader,
            optimizer,
            gather_metric_period,
            zero_grad_before_forward,
            async_write_metrics,
        )
        self.log_grad_scaler = log_grad_scaler
        self.grad_scaler = torch.amp.GradScaler("cuda") if grad_scaler is None else grad_scaler
        self.precision = precision

    def run_step(self) -> None:
        assert self.model.training, "the model was switched to evaluation mode during training"
        assert torch.cuda.is_available(), "AMPTrainer needs CUDA, which is not available here"
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start

        if self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        with torch.autocast("cuda", dtype=self.precision):
            loss_dict = self.model(data)
            if isinstance(loss_dict, Tensor):
                losses, loss_dict = loss_dict, {"total_loss": loss_dict}
            else:
                losses = sum(loss_dict.values())
        if not self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        self.grad_scaler.scale(losses).backward()
        if self.log_grad_scaler:
            scale = self.grad_scaler.get_scale()
            get_event_storage().put_scalar("[metric]grad_scaler", scale)
        self.after_backward()
        self._write_metrics(loss_dict, data_time)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        state["grad_scaler"] = self.grad_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
