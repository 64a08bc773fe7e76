"""The Co-DETR detector.

Letters used for tensor axes throughout this package:
    N images, S encoder tokens (all levels, fine to coarse, row-major), Q queries, C channels,
    M attention heads, P sampling points, L decoder layers, K auxiliary heads.
Labels: 0..num_classes-1; background = num_classes; ignored = -1.
Boxes: absolute XYXY pixels of the model input in `Boxes` and `Instances`; normalized cxcywh (by
each image's own valid size) inside the transformer.
"""
