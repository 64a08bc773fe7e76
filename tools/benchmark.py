#!/usr/bin/env python
"""Time pairs of implementations against each other, or count what a step does; print a table.

    python tools/benchmark.py                               all benchmarks
    python tools/benchmark.py ms_deform_attn --repeats 20   one of them
    python tools/benchmark.py syncs                         counted, not timed: waits of the host
    python tools/benchmark.py cuda --repeats 20             on a GPU, a table of its own
    python tools/benchmark.py data                          pictures a second of one core
    python tools/benchmark.py training --repeats 50         whole iterations, needs the digits
    python tools/benchmark.py evaluation --repeats 3        minutes: pycocotools against ours
    python tools/benchmark.py export --model co_dino/co_dino_digits=model.pth --picture 1.png
    python tools/benchmark.py --list

The two sides of a row are timed in turns in the same run, so that whatever else the machine does
hits both. Inputs and weights are random; the shapes are those of real use.
"""

import argparse
import inspect
import sys
import time
from collections.abc import Callable, Iterator

import co_detr  # isort: skip  # noqa: F401  (makes detectron2 importable)

import torch
from benchmarks.inputs import (
    DIGITS_SHAPES,
    R50_SHAPES,
    attention_inputs,
    forward,
    forward_backward,
    random_groups,
    random_memory,
)
from benchmarks.measuring import HEADERS, Comparison, table_row, time_in_turns
from benchmarks.models import (
    DIGITS_CONFIG,
    DIGITS_DINO_CONFIG,
    DINO_CONFIG,
    LVIS_CONFIG,
    R50_CONFIG,
    build_model,
    train_step,
    with_reference_attention,
)
from detectron2.config import instantiate
from tabulate import tabulate
from torch import nn
from torchvision.ops import sigmoid_focal_loss

from co_detr import model_zoo
from co_detr.engine.host_syncs import HostSyncs
from co_detr.modeling.losses import FocalLoss
from co_detr.modeling.queries.group import QueryGroup
from co_detr.ops.ms_deform_attn import ms_deform_attn, ms_deform_attn_reference
from co_detr.profiling.inputs import random_batch

LVIS_CLASSES = 1203
ANCHORS_1024 = 87360  # one per cell of strides 4 to 128, a 1024x1024 image

Benchmark = Callable[[torch.device], Iterator[Comparison]]
BENCHMARKS: dict[str, Benchmark] = {}


def benchmark(name: str) -> Callable[[Benchmark], Benchmark]:
    """Register a function that yields comparisons; the first line of its docstring is its help."""

    def register(function: Benchmark) -> Benchmark:
        BENCHMARKS[name] = function
        return function

    return register


@benchmark("ms_deform_attn")
def compare_deformable_attention(device: torch.device) -> Iterator[Comparison]:
    """The CPU path of ms_deform_attn against the reference."""
    if device.type != "cpu":
        return  # see `cuda`
    R50, digits = (R50_SHAPES, 8, 32), (DIGITS_SHAPES, 4, 16)
    for name, (shapes, heads, channels), N, Q in [
        ("R50 encoder, N=1", R50, 1, None),
        ("R50 encoder, N=2", R50, 2, None),
        ("R50 decoder, N=1, Q=900", R50, 1, 900),
        ("digits encoder, N=8", digits, 8, None),
        ("digits decoder, N=8, Q=160", digits, 8, 160),
    ]:
        inputs = attention_inputs(shapes, heads, channels, N, Q)
        for direction, run in [("forward", forward), ("forward+backward", forward_backward)]:
            yield Comparison(
                f"{name}: {direction}",
                ("CPU path", run(ms_deform_attn, shapes, *inputs)),
                ("reference", run(ms_deform_attn_reference, shapes, *inputs)),
            )


@benchmark("decoder_pass")
def compare_decoder_passes(device: torch.device) -> Iterator[Comparison]:
    """All query groups in one decoder pass against a pass for each (forward and backward)."""
    for name, config, shapes, N, counts in [
        ("R50 decoder, N=1, 300 x 3", R50_CONFIG, R50_SHAPES, 1, (300, 300, 300)),
        ("digits decoder, N=8, 40 + 60 x 2", DIGITS_CONFIG, DIGITS_SHAPES, 8, (40, 60, 60)),
    ]:
        model = model_zoo.get_config(config).model
        decoder = instantiate(model.decoder).to(device)
        memory = random_memory(shapes, N, decoder.embed_dim, device)
        groups = random_groups(counts, N, decoder.embed_dim, device)

        def run(*passes: list[QueryGroup], decoder=decoder, memory=memory) -> None:
            total = 0
            for some in passes:
                for predicted in decoder(some, memory).values():
                    total = total + predicted.logits.mean() + predicted.boxes.mean()
            total.backward()

        yield Comparison(
            name,
            ("one pass", lambda run=run, groups=groups: run(groups)),
            ("separate passes", lambda run=run, groups=groups: run(*([g] for g in groups))),
        )


@benchmark("training_step")
def time_training_step(device: torch.device) -> Iterator[Comparison]:
    """A training step of Co-Deformable-DETR R50 (K = 2), one 640x640 image."""
    model = build_model(R50_CONFIG, device)
    step = train_step(model, random_batch(1, 640, boxes=(7, 8), sizes=(32, 320)))
    yield Comparison(
        "R50, 640x640: training step",
        ("ours", step),
        ("reference attention", with_reference_attention(step)),
        memory=True,
    )


@benchmark("inference")
def time_inference(device: torch.device) -> Iterator[Comparison]:
    """Inference of Co-Deformable-DETR R50, one 640x640 image."""
    model = build_model(R50_CONFIG, device).eval()
    batch = random_batch(1, 640, boxes=(7, 8), sizes=(32, 320))
    detect = torch.no_grad()(lambda: model(batch))
    yield Comparison(
        "R50, 640x640: inference",
        ("ours", detect),
        ("reference attention", with_reference_attention(detect)),
        memory=True,
    )


@benchmark("co_dino")
def time_co_dino(device: torch.device) -> Iterator[Comparison]:
    """Co-DINO R50 (K = 2), one 640x640 image, with and without activation checkpointing."""
    model = build_model(DINO_CONFIG, device)
    step = train_step(model, random_batch(1, 640, boxes=(7, 8), sizes=(32, 320)))
    yield compare_checkpointing("Co-DINO R50, 640x640", model, step)
    batch = random_batch(1, 640, boxes=(7, 8), sizes=(32, 320))

    @torch.no_grad()
    def detect() -> None:
        model.eval()
        model(batch)

    yield Comparison(
        "Co-DINO R50, 640x640: inference",
        ("ours", detect),
        ("reference attention", with_reference_attention(detect)),
        memory=True,
    )


def compare_checkpointing(what: str, model: nn.Module, step: Callable[[], None]) -> Comparison:
    """A training step with the encoder's activations kept, and with them recomputed."""

    def recomputing(layers: int) -> Callable[[], None]:
        def run() -> None:
            model.encoder.num_checkpointed = layers
            model.train()
            step()

        return run

    return Comparison(
        f"{what}: training step",
        ("all activations kept", recomputing(0)),
        ("6 encoder layers recomputed", recomputing(6)),
        memory=True,
    )


@benchmark("transformers")
def compare_with_transformers(device: torch.device) -> Iterator[Comparison]:
    """Deformable-DETR R50 (K = 0), one 640x640 image, against Hugging Face transformers."""
    from benchmarks.hugging_face import comparisons  # transformers need not be installed

    return comparisons(device)


@benchmark("class_losses")
def compare_class_losses(device: torch.device) -> Iterator[Comparison]:
    """The focal loss of ATSS for LVIS, one 1024x1024 image, against that of all pairs."""
    logits = torch.randn(ANCHORS_1024, LVIS_CLASSES, device=device, requires_grad=True)
    labels = torch.full((ANCHORS_1024,), LVIS_CLASSES, device=device)
    labels[:3000] = torch.arange(3000, device=device) % LVIS_CLASSES
    quality = torch.rand(ANCHORS_1024, device=device)
    classes = torch.arange(LVIS_CLASSES, device=device)

    def ours() -> None:
        total = FocalLoss()(logits, labels, quality).sum()
        torch.autograd.grad(total, logits)

    def of_all_pairs() -> None:
        target = (labels[:, None] == classes).to(logits.dtype)
        torch.autograd.grad(sigmoid_focal_loss(logits, target, reduction="sum"), logits)

    yield Comparison(
        f"focal loss, {ANCHORS_1024} anchors, {LVIS_CLASSES} classes: forward+backward",
        ("background and own class", ours),
        ("all pairs", of_all_pairs),
        memory=True,
    )


@benchmark("lvis")
def time_lvis(device: torch.device) -> Iterator[Comparison]:
    """A training step of Co-DINO R50 (K = 2) for LVIS, one 1024x1024 image with 300 objects."""
    torch.manual_seed(0)
    config = model_zoo.get_config(LVIS_CONFIG).model
    # equal frequencies, so that no dataset is needed
    config.criterion.federated.dataset = None
    config.criterion.federated.image_counts = [1] * LVIS_CLASSES
    model = instantiate(config).to(device).train()
    batch = random_batch(1, 1024, boxes=(300, 300), sizes=(16, 128), num_classes=LVIS_CLASSES)
    yield compare_checkpointing("Co-DINO R50 LVIS, 1024x1024", model, train_step(model, batch))


@benchmark("auxiliary_heads")
def compare_auxiliary_heads(device: torch.device) -> Iterator[Comparison]:
    """What an iteration costs with K auxiliary heads, against K = 0."""
    from benchmarks.auxiliary_heads import comparisons

    return comparisons(device)


COUNTED = "syncs"
COUNTED_HELP = "How often a training step waits for the device, and its operators."
ON_GPU = "cuda"
ON_GPU_HELP = "Deformable attention and Co-DINO on a GPU, against all alternatives."
OF_DATA = "data"
OF_DATA_HELP = "How many pictures a second one core makes ready, by pipeline."
TRAINING = "training"
TRAINING_HELP = "Iterations of digits trainings, data and log included, by K (needs the digits)."
EVALUATION = "evaluation"
EVALUATION_HELP = "COCO's AP by hotcoco against pycocotools (minutes)."
EXPORTED = "export"
EXPORTED_HELP = "Exported files (ONNX, .pt2) against the model; needs the extra [export]."


def count_syncs(device: torch.device) -> str:
    """A table of the digits models, for batches of growing size.

    A step here goes from the images to the logged losses, without the optimizer. On the CPU it is
    told what a GPU would wait for.
    """
    rows = []
    for name, config in [
        ("K = 0", f"{DIGITS_CONFIG}_k0"),
        ("K = 2", DIGITS_CONFIG),
        ("Co-DINO, K = 2", DIGITS_DINO_CONFIG),
    ]:
        torch.manual_seed(0)
        model = instantiate(model_zoo.get_config(config).model).to(device).train()
        for N in (1, 2, 8):
            batch = random_batch(N, 128, boxes=(1, 5), sizes=(24, 64))
            with HostSyncs(device) as syncs:
                losses = model(batch)
                sum(losses.values()).backward()
                torch.stack([loss.detach() for loss in losses.values()]).tolist()
            what = ", ".join(f"{count} {wait}" for wait, count in sorted(syncs.waits.items()))
            rows.append([name, N, syncs.total, syncs.operations, what])
    headers = ["training step", "images", "waits", "operators", "for"]
    return tabulate(rows, headers, tablefmt="github")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = [*BENCHMARKS, COUNTED]
    known = [*default, ON_GPU, OF_DATA, TRAINING, EVALUATION, EXPORTED]
    parser.add_argument("names", nargs="*", help=f"default: all of {', '.join(default)}")
    parser.add_argument("--repeats", type=int, default=7, help="measurements of each side")
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="time of the process, for a CPU that others use, too",
    )
    parser.add_argument(
        "--model",
        action="append",
        metavar="CONFIG[=WEIGHTS]",
        help="for export: a name of the model zoo; default: R50, Co-DINO, Swin-T, random weights",
    )
    parser.add_argument("--picture", help="for export: gives size and content; default: noise")
    parser.add_argument("--list", action="store_true", help="say what there is, and stop")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in known]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are: {', '.join(known)}")
    if args.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {args.repeats}")
    if args.list:
        for name, function in BENCHMARKS.items():
            print(f"{name:16} {inspect.getdoc(function).splitlines()[0]}")
        print(f"{COUNTED:16} {COUNTED_HELP}")
        print(f"{ON_GPU:16} {ON_GPU_HELP}")
        print(f"{OF_DATA:16} {OF_DATA_HELP}")
        print(f"{TRAINING:16} {TRAINING_HELP}")
        print(f"{EVALUATION:16} {EVALUATION_HELP}")
        print(f"{EXPORTED:16} {EXPORTED_HELP}")
        return

    clock = time.process_time if args.cpu_time else time.perf_counter
    names = args.names or default
    if ON_GPU in names:
        if not torch.cuda.is_available():
            sys.exit(f"{ON_GPU}: PyTorch finds no CUDA device here")
        from benchmarks.cuda import table

        print(table(torch.device("cuda"), args.repeats))
    if OF_DATA in names:
        from benchmarks import data

        print(data.table(args.repeats))
    if EXPORTED in names:
        from benchmarks import export

        cases = [export.Case.from_text(text) for text in args.model or ()]
        print(export.table(args.repeats, cases or export.CASES, args.picture))
    if COUNTED in names:
        print(count_syncs(args.device))
    if TRAINING in names:
        from benchmarks import training

        BENCHMARKS[TRAINING] = training.comparisons
    if EVALUATION in names:
        from benchmarks.evaluation import comparisons

        BENCHMARKS[EVALUATION] = lambda device: comparisons()
    rows = []
    for name in (name for name in names if name in BENCHMARKS):
        torch.manual_seed(0)
        for comparison in BENCHMARKS[name](args.device):
            print(f"{name}: {comparison.what}", file=sys.stderr)
            times = time_in_turns(comparison, args.repeats, args.device, clock)
            rows.append(table_row(comparison, *times, args.device))
    if not rows:
        return
    where = f"{args.device}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    what = " of CPU time" if args.cpu_time else ""
    print(f"{where}; {args.repeats} repeats{what} of each side, in turns")
    print(tabulate(rows, HEADERS, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
