"""Stands in for the training script: leaves its files, in a moment, and trains nothing.

Called with the whole command as a launcher is. The environment makes it slow (STUB_SECONDS per
iteration) or fail (STUB_FAILS, a word of the command line).
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

words = sys.argv[1:]
values = dict(word.split("=", 1) for word in words if "=" in word)
folder = Path(values["train.output_dir"])
folder.mkdir(parents=True, exist_ok=True)
with open(folder / "commands.txt", "a") as file:
    file.write(f"{' '.join(words)} on {os.environ.get('CUDA_VISIBLE_DEVICES')}\n")

if "--eval-only" in words:
    assert Path(values["train.init_checkpoint"]).is_file()
    (folder / "evaluation.json").write_text(json.dumps({"bbox/AP": 5.0, "bbox/AP50": 6.0}))
    sys.exit()

asked = []
signal.signal(signal.SIGTERM, lambda signum, frame: asked.append(signum))
checkpoint = folder / "last_checkpoint"
start = int(checkpoint.read_text()) if checkpoint.exists() else 0
iterations = int(values["train.max_iter"])
with open(folder / "metrics.json", "a") as metrics:

    def log(**row):
        print(json.dumps(row), file=metrics, flush=True)

    for iteration in range(start, iterations):
        log(iteration=iteration, time=0.5, total_loss=1.0)
        time.sleep(float(os.environ.get("STUB_SECONDS", 0)))
        if asked:
            checkpoint.write_text(str(iteration + 1))
            sys.exit(128 + asked[0])
        if os.environ.get("STUB_FAILS") in words:
            sys.exit("no memory")
    (folder / "model_final.pth").touch()
    log(**{"iteration": iterations, "bbox/AP": 10.0 + int(values["train.seed"])})
