"""What `tools/benchmark.py training` measures: iterations of trainings on the digits.

Unlike the benchmark `auxiliary_heads`, which times the bare step on one batch of noise, an
iteration is here what a training run does: it takes a batch from the config's data loader with its
worker processes, steps, and logs, by the trainer that `tools/lazyconfig_train_net.py` uses.
"""

from collections.abc import Callable, Iterator

import torch
from benchmarks.measuring import Comparison
from benchmarks.models import DIGITS_CONFIG
from detectron2.utils.events import EventStorage

from co_detr import model_zoo
from co_detr.engine import build
from co_detr.engine.prefetch import prefetched
from co_detr.engine.speed import set_tf32
from co_detr.engine.trainer import Trainer


def comparisons(device: torch.device) -> Iterator[Comparison]:
    """K = 1 and K = 2 auxiliary heads against none."""
    without = iteration(f"{DIGITS_CONFIG}_k0", device)
    for K, config in ((1, f"{DIGITS_CONFIG}_k1"), (2, DIGITS_CONFIG)):
        yield Comparison(
            "digits, batch 8: iteration of a training run",
            ("K = 0", without),
            (f"K = {K}", iteration(config, device)),
        )


def iteration(config: str, device: torch.device) -> Callable[[], None]:
    """A call that trains for one more iteration; `config` is a name of the model zoo."""
    cfg = model_zoo.get_config(config)
    cfg.train.device = str(device)
    set_tf32(cfg.train.get("tf32"))
    torch.manual_seed(0)
    model = build.build_model(cfg, weights_follow=False).train()
    trainer = Trainer(
        model,
        prefetched(build.build_train_loader(cfg, start_iter=0), cfg.train.device),
        build.build_optimizer(cfg, model),
        clip_grad=build.clip_grad_params(cfg),
        amp_dtype=build.amp_dtype(cfg),
    )
    trainer.iter = 0

    def step() -> None:
        with EventStorage(trainer.iter) as trainer.storage:
            trainer.run_step()
        trainer.iter += 1

    return step
