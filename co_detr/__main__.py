"""`python -m co_detr` is `co-detr`."""

import sys

from co_detr.cli import main

if __name__ == "__main__":
    sys.exit(main())
