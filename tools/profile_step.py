#!/usr/bin/env python
"""Tell where the time and the memory of a training step, or of an inference, go.

    python tools/profile_step.py --config-file configs/<...>.py
    python tools/profile_step.py --config-file configs/<...>.py --image-size 800x1333 --batch 2 \\
        --output trace.json train.amp.enabled=True
    python tools/profile_step.py --config-file configs/<...>.py --inference

Images, boxes and weights are random. The step is one of a training by that config, less the hooks
of a run (averaged weights, schedule) and the loading of data. It goes by `train.device`.
"""

import co_detr  # noqa: F401, I001  (makes detectron2 importable)
from co_detr.profiling.command import main

if __name__ == "__main__":
    main(description=__doc__)
