"""From picture files to detections, drawn and written down; `tools/predict.py` is the command."""
