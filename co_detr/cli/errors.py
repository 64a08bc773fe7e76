"""What went wrong, in one line."""

import re

# What our checks raise speaks for itself; of all else the kind belongs to the message.
_SPEAKING = (ValueError, OSError, KeyError, ImportError)
_OUT_OF_MEMORY = (
    "make batches smaller (dataloader.train.total_batch_size=...), or cut them into parts "
    "(train.accumulate=...)"
)

# What is imported by another name than it is installed by.
_DISTRIBUTIONS = {
    "PIL": "Pillow",
    "cv2": "opencv-python-headless",
    "hydra": "hydra-core",
    "sklearn": "scikit-learn",
    "yaml": "PyYAML",
}


def one_line(error: BaseException) -> str:
    """The message of an error, its line breaks as spaces, with a remedy where it has none."""
    message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    kind = type(error).__name__
    if kind == "ProcessRaisedException":  # holds the traceback of a process of a job
        return message.rstrip().rpartition("\n")[2]
    message = " ".join(message.split())
    if kind == "OutOfMemoryError" or isinstance(error, MemoryError):
        return f"out of memory: {_OUT_OF_MEMORY}"
    if isinstance(error, ModuleNotFoundError) and "pip install" not in message:
        return message + _remedy(error.name or ".")
    if isinstance(error, _SPEAKING) and message:
        return message
    return f"{kind}: {message or 'no message'} (--debug shows where)"


def _remedy(module: str) -> str:
    """What to do about a module that there is not, for the end of a message.

    Only what this project needs is to be installed by its name: under that of a module of the
    user's own, anybody may have put anything on the index of packages.
    """
    from importlib import metadata

    if "." in module:  # a part that an installed package lacks
        return ""
    if module in _DISTRIBUTIONS:
        return f": pip install {_DISTRIBUTIONS[module]}"
    try:
        needed = metadata.requires("co-detr") or []
    except metadata.PackageNotFoundError:  # run from a checkout
        return ""
    names = [re.match(r"[\w.-]+", text) for text in needed]
    by_module = {re.sub("[.-]", "_", name[0]).lower(): name[0] for name in names if name}
    if module in by_module:
        return f": pip install {by_module[module]}"
    return ": if it is your own, put the folder that it is in on PYTHONPATH"
