"""What help lists, without importing what it stands for."""

TOP_LEVEL = {
    "yolo": ("labels", "data.yaml"),
    "labelstudio": ("labelstudio.json", "labelstudio.xml"),
    "csv": ("predictions.csv",),
}
"""The files and folders of a format."""

TRACKERS = {"bytetrack": "ByteTrackTracker", "sort": "SORTTracker", "ocsort": "OCSORTTracker"}
"""Trackers, and what the library `trackers` calls them."""
