"""An evaluation that an interruption cut short is made up for when the run is resumed."""

import contextlib
import logging
import os
import sys
from collections.abc import Sequence

from detectron2.engine import HookBase
from detectron2.utils import comm

from .early_stop import FILE_NAME as EARLY_STOP
from .early_stop import read_results
from .files import whole_file

logger = logging.getLogger(__name__)

FILE_NAME = "last_evaluation"


class MissedEvaluation(HookBase):
    """Does what was left to do after the step of the checkpoint that a run is resumed from.

    Checkpoints are written before an evaluation, which may take long and be ended by whatever ends
    the run. Without its result the best weights, and when training stops early, would be others
    than in a whole run. A file in the output folder tells which evaluation was the last one to be
    finished, unless training stopped early by it. Belongs on every rank, behind the hooks that it
    calls.

    Args:
        output_dir: the folder of the run.
        eval_period: iterations between evaluations; 0 for one at the end, which is not missed.
        evaluation: the hooks that evaluate and go by the result, in the order of their calls.
    """

    def __init__(self, output_dir: str, eval_period: int, evaluation: Sequence[HookBase]):
        self._output_dir = output_dir
        self._period = eval_period
        self._evaluation = evaluation

    def before_train(self) -> None:
        done = self.trainer.start_iter
        if done == 0 and comm.is_main_process():  # of a run that was deleted
            with contextlib.suppress(FileNotFoundError):
                os.remove(os.path.join(self._output_dir, FILE_NAME))
        missed = done > 0 and self._is_due(done) and done > self._last()
        if not comm.all_gather(missed)[0]:
            return
        logger.info(f"The evaluation after {done} iterations was not finished: it is done first")
        self.trainer.iter = self.trainer.storage.iter = done - 1
        for hook in self._evaluation:
            hook.after_step()
        self.after_step()
        self.trainer.iter = self.trainer.storage.iter = done

    def after_step(self) -> None:
        if self._is_due(self.trainer.iter + 1):
            self._note(self.trainer.iter + 1)

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            self._note(self.trainer.iter)

    def _note(self, done: int) -> None:
        if comm.is_main_process():
            with whole_file(os.path.join(self._output_dir, FILE_NAME)) as file:
                file.write(str(done))

    def _is_due(self, done: int) -> bool:
        return self._period > 0 and done % self._period == 0 and done < self.trainer.max_iter

    def _last(self) -> int:
        """After how many iterations the last evaluation was that is known to be finished."""
        results = read_results(os.path.join(self._output_dir, EARLY_STOP), sys.maxsize)
        last = max((done for done, _ in results), default=0)
        path = os.path.join(self._output_dir, FILE_NAME)
        if os.path.isfile(path):
            with open(path, encoding="utf-8") as file:
                text = file.read()
            last = max(last, int(text) if text.isdecimal() else 0)
        return last
