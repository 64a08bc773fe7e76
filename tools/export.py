#!/usr/bin/env python
"""Write a detector as ONNX or for torch.export; what `co-detr export` runs."""

import argparse
import sys

import co_detr  # noqa: F401, I001  (makes detectron2 importable)
from co_detr.arguments import parse_arguments
from co_detr.export import command

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=command.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    command.add_arguments(parser)
    sys.exit(command.run(parse_arguments(parser)))
