"""Open a page on which a detector can be tried: drop a picture, move the threshold.

    co-detr web output/birds/model_best.pth
    co-detr web output/birds/model_best.pth --threshold 0.3 --port 8080

The page shows the detections of a picture, those of auxiliary heads where the model has some, and
heat maps; a COCO file of the detections can be saved. It answers to this machine alone, unless
--host says otherwise, and needs no network.

A checkpoint that was written before they brought their config along needs it: --config-file
co_dino_r50
"""

# Nothing heavy up here: `--help` is to answer at once.
import argparse

from co_detr.inference.command import score


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("weights", metavar="WEIGHTS", help="a checkpoint")
    parser.add_argument(
        "--config-file",
        help="a file, or a name of the model zoo; without it, the config in the checkpoint",
    )
    parser.add_argument(
        "--threshold",
        type=score,
        default=0.5,
        metavar="SCORE",
        help="least score at first, 0 to 1; %(default)s",
    )
    parser.add_argument("--device", help='"cpu", "cuda:1"; by default CUDA if there is any')
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to serve at; %(default)s is for this machine alone, 0.0.0.0 for everybody "
        "who reaches it",
    )
    parser.add_argument(
        "--port", type=port, default=7860, metavar="N", help="%(default)s; 0 takes a free one"
    )


def port(text: str) -> int:
    """For `add_argument(type=...)`: the number of a port."""
    number = int(text)
    if not 0 <= number < 1 << 16:
        raise argparse.ArgumentTypeError(f"{number} is not between 0 and 65535")
    return number


def run(args: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C.

    Raises:
        ImportError: the extra is not installed.
        OSError: the address is not to be had.
        ValueError, FileNotFoundError: as `load_detector`.
    """
    import signal
    import sys
    import tempfile
    from pathlib import Path

    from .server import address, application, is_loopback, listen, prepare_gradio, server_of

    # as after Ctrl-C, uploads are not left behind
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="co_detr_web_") as folder:
        prepare_gradio(folder)
        with listen(args.host, args.port) as socket:  # before the model, as the port may be taken
            from detectron2.utils.logger import setup_logger

            from co_detr.inference.detector import load_detector

            from .page import build_page, look_of_page
            from .viewer import Viewer

            setup_logger(name="co_detr")
            detector = load_detector(
                args.weights,
                config_file=args.config_file,
                overrides=args.opts,
                device=args.device,
            )
            name = Path(args.weights).name
            page = build_page(Viewer(detector), name, args.threshold, Path(folder))
            host = socket.getsockname()[0]
            app = application(page, look_of_page(), host)
            print(f"Open {address(socket)} in a browser. Ctrl-C ends it.", flush=True)
            if not is_loopback(host):
                print("Everybody who reaches this machine can use the page.", flush=True)
            server_of(app).run(sockets=[socket])
    return 0
