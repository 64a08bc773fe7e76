"""What went wrong, in one line."""

# What our checks raise speaks for itself; of all else the kind belongs to the message.
_SPEAKING = (ValueError, OSError, KeyError, ImportError)
_OUT_OF_MEMORY = (
    "make batches smaller (dataloader.train.total_batch_size=...), or cut them into parts "
    "(train.accumulate=...)"
)


def one_line(error: BaseException) -> str:
    """The message of an error, its line breaks as spaces, with a remedy where it has none."""
    message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    kind = type(error).__name__
    if kind == "ProcessRaisedException":  # holds the traceback of a process of a job
        return message.rstrip().rpartition("\n")[2]
    message = " ".join(message.split())
    if kind == "OutOfMemoryError" or isinstance(error, MemoryError):
        return f"out of memory: {_OUT_OF_MEMORY}"
    if isinstance(error, ImportError) and error.name and not error.name.startswith("co_detr"):
        return message if "pip install" in message else f"{message}: pip install {error.name}"
    if isinstance(error, _SPEAKING) and message:
        return message
    return f"{kind}: {message or 'no message'} (--debug shows where)"
