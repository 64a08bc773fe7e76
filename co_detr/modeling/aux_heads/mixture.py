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
        return np.logaddexp.reduce(self.log_joint(x), axis=-1)


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
    count = real.sum(axis=1)
    ends = [x.min(axis=1, where=real, initial=np.inf), x.max(axis=1, where=real, initial=-np.inf)]
    halves = np.full((len(x), 2), 0.5)
    fitted = Mixtures(halves, np.stack(ends, axis=1), np.ones_like(halves))
    before, running = np.full(len(x), -np.inf), np.ones(len(x), dtype=bool)
    for _ in range(MOST_STEPS):
        density = fitted.log_density(x)
        share = np.exp(fitted.log_joint(x) - density[..., None]) * real[..., None]
        total = share.sum(axis=1) + 10 * np.finfo(np.float64).eps
        means = (share * x[..., None]).sum(axis=1) / total
        squares = (x[..., None] - means[:, None]) ** 2
        variances = (share * squares).sum(axis=1) / total + VARIANCE_FLOOR
        new = (total / total.sum(axis=1, keepdims=True), means, variances)
        old = (fitted.weights, fitted.means, fitted.variances)
        fitted = Mixtures(*(np.where(running[:, None], n, o) for n, o in zip(new, old)))

        likelihood = (density * real).sum(axis=1) / count
        running &= np.abs(likelihood - before) >= TOLERANCE
        before = likelihood
        if not running.any():
            break
    return fitted
