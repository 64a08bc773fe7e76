#!/usr/bin/env python
"""Draw a figure of the paper from trained models, and write its numbers beside it.

    python tools/analyze.py discriminability --config-file configs/<...>.py --weights model.pth
    python tools/analyze.py figure2 --model "K = 0=configs/<...>.py:k0.pth" \\
        --model "K = 1=configs/<...>.py:k1.pth"

A figure goes by name or by its number in the paper. The pictures it looks at are those that the
config evaluates on. Into the output folder go <figure>.png and <figure>.csv.
"""

import co_detr  # noqa: F401, I001  (makes detectron2 importable)
from co_detr.analysis.command import main

if __name__ == "__main__":
    main(description=__doc__)
