#!/usr/bin/env python
"""`co-detr convert` as a script: weights of other projects, made ours."""

import argparse
import sys

from co_detr.arguments import parse_arguments
from co_detr.checkpoint import command


def main() -> None:
    parser = argparse.ArgumentParser(
        description=command.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    command.add_arguments(parser)
    try:
        command.run(parse_arguments(parser))
    except (ValueError, KeyError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
