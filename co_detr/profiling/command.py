"""The command line of `tools/profile_step.py`."""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from co_detr.arguments import at_least_one, parse_arguments, tool_config, user_path

NOTES = """\
Stages are the parts of the model; a stage inside another one is not counted twice. peak: the most
memory in use while a stage ran; kept: what it left behind; both against the begin of the step."""
ON_A_CPU = """\
On the CPU, operators, waits and largest tensors are those of the implementations for other
devices: what a GPU would do without kernels of its own. Times and memory are the CPU's. The
optimizer goes by single parameters there, and its counters of steps look like the device's."""


def build_parser(description: str | None = None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="a file, or a name of the model zoo")
    parser.add_argument("--inference", action="store_true", help="instead of a training step")
    parser.add_argument("--image-size", type=image_size, default=(640, 640), metavar="HxW")
    parser.add_argument("--batch", type=at_least_one, default=1, metavar="N", help="images, 1")
    parser.add_argument("--objects", type=at_least_one, default=8, help="per image, 8")
    parser.add_argument("--repeats", type=at_least_one, default=3, help="steps that are timed, 3")
    parser.add_argument("--largest", type=at_least_one, default=10, help="tensors to name, 10")
    parser.add_argument("--output", type=user_path, help="a file for a Chrome trace of the step")
    return parser


def image_size(text: str) -> tuple[int, int]:
    """For `add_argument(type=...)`: (height, width) of "800x1333", in pixels."""
    height, times, width = text.lower().partition("x")
    if not times:
        raise argparse.ArgumentTypeError(f"{text!r} is not like 800x1333 (height, width)")
    return at_least_one(height), at_least_one(width)


def main(argv: Sequence[str] | None = None, description: str | None = None) -> None:
    """Profile the step that a command line asks for, and print the tables."""
    args = parse_arguments(build_parser(description), argv)

    import torch

    from .inputs import random_batch
    from .report import profile_step, stage_table, tensor_table
    from .steps import inference, training_step

    cfg = tool_config(args)
    if torch.device(cfg.train.device).type == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"train.device={cfg.train.device}, but there is no GPU: train.device=cpu")
    device = torch.device(cfg.train.device)
    torch.manual_seed(0)
    shorter = min(args.image_size)
    batch = random_batch(
        args.batch,
        args.image_size,
        boxes=(args.objects, args.objects),
        sizes=(max(1, shorter // 20), max(1, shorter // 2)),
        num_classes=cfg.model.num_classes,
        masks=not args.inference and _reads_masks(cfg),
    )
    step = (inference if args.inference else training_step)(cfg, batch)
    with tempfile.TemporaryDirectory() as folder:
        trace = args.output or Path(folder, "trace.json")
        trace.parent.mkdir(parents=True, exist_ok=True)
        profile = profile_step(step, device, trace, repeats=args.repeats, largest=args.largest)

    what = "inference" if args.inference else "training step"
    height, width = args.image_size
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    print(f"{what} of {args.batch} x {height}x{width}, {args.objects} objects each")
    print(f"{where}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print(f"{stage_table(profile)}\n\n{NOTES}\n")
    print(f"Largest tensors:\n\n{tensor_table(profile)}")
    if device.type == "cpu":
        print(f"\n{ON_A_CPU}")
    if args.output:
        print(f"\nTrace for chrome://tracing or https://ui.perfetto.dev: {args.output}")


def _reads_masks(cfg) -> bool:
    """Whether a part of the model learns masks."""
    heads = (cfg.model.get("aux_heads") or {}).values()
    learns = any(hasattr(head, "get") and head.get("mask_head") for head in heads)
    return learns or bool(cfg.model.get("instance_mask"))
