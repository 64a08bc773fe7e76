"""Samplers for training and inference on one or several ranks."""

from .distributed_sampler import InferenceSampler, RepeatFactorTrainingSampler, TrainingSampler

__all__ = ["InferenceSampler", "RepeatFactorTrainingSampler", "TrainingSampler"]
