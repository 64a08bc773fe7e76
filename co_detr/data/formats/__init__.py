"""Data sets as annotation tools write them, read as splits in COCO's terms.

`supervision` reads some of these, too, and is what the tests compare with. Here a broken picture or
a missing one is reported instead of ending the reading, polygons stay polygons instead of a mask
per object in memory, and pictures may lie in folders of folders.
"""

from .finding import read_data
from .split import Split

__all__ = ["Split", "read_data"]
