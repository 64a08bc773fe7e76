#!/usr/bin/env python
"""Train or evaluate a model by a lazy config.

    python tools/lazyconfig_train_net.py --config-file configs/<...>.py --num-gpus 8
    python tools/lazyconfig_train_net.py --config-file configs/<...>.py --resume
    python tools/lazyconfig_train_net.py --config-file configs/<...>.py --eval-only \
        train.init_checkpoint=model_final.pth

Values of the config are changed by key=value at the end. `--resume` continues from the last
checkpoint in train.output_dir, exactly; without one it starts from the beginning, so that the same
command can be used for both. `--num-gpus` counts processes; where there is no GPU they run on the
CPU.
"""

import co_detr  # noqa: F401, I001  (makes detectron2 importable)
from co_detr.engine import main
from co_detr.engine.arguments import parse_arguments
from detectron2.engine import default_argument_parser, launch

if __name__ == "__main__":
    args = parse_arguments(default_argument_parser())
    launch(
        main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )
