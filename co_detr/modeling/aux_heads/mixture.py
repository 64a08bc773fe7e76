"""Mixtures of two normal distributions on the line, many at once, on the host in float64."""

from dataclasses import dataclass

import numpy as np

VARIANCE_FLOOR = 1e-6
TOLERANCE, MOST_STEPS = 1e-3, 100


@dataclass(frozen=True)
class Mixtures:
    """Mixtures of two components, fitted to B sets of numbers.

    Attributes:
        weights, means, variances: (B, 2).
    """

    weights: np.ndarray
    means: np.ndarray
    variances: np.ndarray

    def log_joint(self, x: np.ndarray) -> np.ndarray:
        """Log density of x (B, K) and the component together: (B, K, 2)."""
        squares = (x[..., None] - self.means[:, None]) ** 2 / self.variances[:, None]
        constant = np.log(self.weights) - np.log(2 * np.pi * self.variances) / 2
        return constant[:, None] - squares / 2

    def log_density(self, x: np.ndarray) -> np.ndarray:
        """Log density of x (B, K): (B, K)."""
        return _either(self.log_joint(x))


def _either(joint: np.ndarray) -> np.ndarray:
    """Sum two log densities (..., 2)."""
    return np.logaddexp(joint[..., 0], joint[..., 1])


def fit_mixtures(x: np.ndarray, real: np.ndarray) -> Mixtures:
    """Fit mixtures by expectation maximization (Dempster et al., 1977).

    Each begins at equal weights, its smallest and its largest number as means, and variances of 1.
    It is done when the mean log likelihood of its numbers changes by less than `TOLERANCE`, or
    after `MOST_STEPS`; the others go on. What scikit-learn's `GaussianMixture` does with one
    mixture.

    Args:
        x: (B, K) float64, finite.
        real: (B, K) bool, which of them take part; at least one of each set.
    """
    ends = [x.min(axis=1, where=real, initial=np.inf), x.max(axis=1, where=real, initial=-np.inf)]
    weights, means = np.full((len(x), 2), 0.5), np.stack(ends, axis=1)
    variances = np.ones_like(weights)
    running, before = np.arange(len(x)), np.full(len(x), -np.inf)
    for _ in range(MOST_STEPS):
        some, taking_part = x[running, :, None], real[running]
        joint = Mixtures(weights[running], means[running], variances[running]).log_joint(x[running])
        density = _either(joint)
        share = np.exp(joint - density[..., None]) * taking_part[..., None]
        total = share.sum(axis=1) + 10 * np.finfo(np.float64).eps
        mean = (share * some).sum(axis=1) / total
        squares = (some - mean[:, None]) ** 2
        weights[running] = total / total.sum(axis=1, keepdims=True)
        means[running] = mean
        variances[running] = (share * squares).sum(axis=1) / total + VARIANCE_FLOOR

        likelihood = (density * taking_part).sum(axis=1) / taking_part.sum(axis=1)
        going_on = np.abs(likelihood - before) >= TOLERANCE
        running, before = running[going_on], likelihood[going_on]
        if not len(running):
            break
    return Mixtures(weights, means, variances)
