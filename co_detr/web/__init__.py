"""The page of `co-detr web`: a picture goes in, its detections come out, and controls play on them.

`viewer` detects, draws and remembers; `heat` makes heat maps; `page` lays out the controls by
Gradio; `server` serves the page to this machine; `command` is the command line.
"""
