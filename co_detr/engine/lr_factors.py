"""Learning rate factors of the released models, by the full name of a parameter."""


def deformable_lr_factor(name: str) -> float:
    """A tenth for the backbone, the sampling offsets and the reference points."""
    slow = ("backbone.", "sampling_offsets", "reference_points")
    return 0.1 if any(part in name for part in slow) else 1.0


def sampling_lr_factor(name: str) -> float:
    """A tenth for the sampling offsets and the reference points; the backbone learns in full."""
    slow = ("sampling_offsets", "reference_points")
    return 0.1 if any(part in name for part in slow) else 1.0


def backbone_lr_factor(name: str) -> float:
    """A tenth for the backbone."""
    return 0.1 if name.startswith("backbone.") else 1.0
