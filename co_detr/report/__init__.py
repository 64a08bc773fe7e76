"""What an evaluation has found, as one HTML page: `co_detr.report.command`.

The numbers are `hotcoco`'s, which equal those of `pycocotools` and `lvis`.
"""
