#!/usr/bin/env python
"""Train or evaluate a model by a lazy config.

    python tools/lazyconfig_train_net.py --config-file configs/<...>.py --num-gpus 8
    python tools/lazyconfig_train_net.py --config-file configs/<...>.py --resume
    python tools/lazyconfig_train_net.py --config-file configs/<...>.py --eval-only \
        train.init_checkpoint=model_final.pth
    torchrun --nproc-per-node 8 tools/lazyconfig_train_net.py --config-file configs/<...>.py
    srun --ntasks-per-node 8 python tools/lazyconfig_train_net.py --config-file configs/<...>.py

Values of the config are changed by key=value at the end. `--resume` continues from the last
checkpoint in train.output_dir, exactly; without one it starts from the beginning, so that the same
command can be used for both. `--num-gpus` counts processes; where there is no GPU they run on the
CPU. Under torchrun and srun this process is one of those that they start.

SIGTERM, Ctrl-C, SIGHUP, SIGUSR1 and SIGUSR2 (as by Slurm's --signal=USR1@60) end the training after
the current step, with a checkpoint, and the exit code is 128 + the number of the signal. A second
one, not less than a second later, ends it at once.
"""

import co_detr  # noqa: F401, I001  (makes detectron2 importable)
from co_detr.engine.launch import run

if __name__ == "__main__":
    run()
