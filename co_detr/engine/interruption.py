"""Training and evaluation that end early, on all ranks together, when a signal asks for it."""

from collections.abc import Callable, Iterator, MutableSequence
from typing import TYPE_CHECKING, Any

from detectron2.engine import HookBase
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.utils import comm

from . import signals
from .checkpoint import WholeFileCheckpointer
from .hooks import PeriodicCheckpointer

if TYPE_CHECKING:
    from .trainer import Trainer


class StopOnSignal(HookBase):
    """Ends a training after the step in which a rank was asked to, with a checkpoint.

    Belongs on every rank, behind all that changes the state of the training and before whatever
    takes long. The trainer must tell by `stop_agreed` that the ranks know of the signal.

    Args:
        checkpointer: knows where the last checkpoint is.
        saver: writes it.
    """

    trainer: "Trainer"

    def __init__(self, checkpointer: WholeFileCheckpointer, saver: PeriodicCheckpointer):
        self._checkpointer = checkpointer
        self._saver = saver

    def after_step(self) -> None:
        if self.trainer.stop_agreed:
            self.stop(signals.received_by_any())

    def unless_asked(self, evaluate: Callable[[], Any]) -> Callable[[], Any]:
        """A function that evaluates, and stops the training where a signal cut that short."""

        def evaluate_or_stop() -> Any:
            results = evaluate()
            if signum := signals.received_by_any():
                self.stop(signum)
            return results

        return evaluate_or_stop

    def stop(self, signum: int) -> None:
        """Save what is not saved yet, and leave; all ranks call it after the same step.

        Raises:
            Interrupted: always.
        """
        done, total = min(self.trainer.iter + 1, self.trainer.max_iter), self.trainer.max_iter
        if done < total:
            self._saver.save_now(self.trainer.iter)
        comm.synchronize()  # nobody's end may end the one that writes
        raise signals.Interrupted(
            signum,
            f"stopped after {done} of {total} iterations, which are saved in "
            f"{self._checkpointer.get_checkpoint_file()}. The same command with --resume continues "
            "exactly there",
        )


class UntilAsked:
    """A loader that ends when a signal has asked this process to end."""

    def __init__(self, loader: Any):
        self._loader = loader

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            if signals.received():
                return
            yield batch


class UnlessAsked(DatasetEvaluator):
    """An evaluator, or several, without results if a signal has asked some rank to end."""

    def __init__(self, evaluator: DatasetEvaluator | MutableSequence[DatasetEvaluator]):
        if isinstance(evaluator, MutableSequence):
            evaluator = DatasetEvaluators(evaluator)
        self._evaluator = evaluator

    def reset(self) -> None:
        self._evaluator.reset()

    def process(self, inputs: list[Any], outputs: list[Any]) -> None:
        self._evaluator.process(inputs, outputs)

    def evaluate(self) -> dict[str, Any] | None:
        return {} if signals.received_by_any() else self._evaluator.evaluate()
