"""Models as files that run without this package: ONNX, and PyTorch's own `.pt2`.

The file holds the tensor part, from padded pictures to boxes, scores and labels (`graph`), and says
of itself what a caller has to know (`description`). `detectors` run it, as `co_detr.load_detector`
runs a checkpoint; `check` compares the two, and nothing is written that differs.
"""
