#!/usr/bin/env python
"""Show what an evaluation has found, as one HTML page: `co_detr.report.command`.

python tools/report.py --predictions RESULTS --annotations FILE --images FOLDER --output page.html
"""

import sys

from co_detr.report.command import main

if __name__ == "__main__":
    sys.exit(main())
