"""From picture files to detections, drawn and written down; `co-detr predict` is the command."""
