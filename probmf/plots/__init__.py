"""Pictures of data, fits and recommendations.

Every function draws into the axes it is given, or into a new figure that pyplot does not know
about, and returns the axes: `plots.calibration(fit, test).figure.savefig("calibration.png")`.
Those of several panels, and those that arviz-plots draws, return the figure.
"""

from probmf.plots.catalogue import degree_distribution, recommendations
from probmf.plots.convergence import diagnostics
from probmf.plots.effects import effects
from probmf.plots.factors import factor_map, spectrum
from probmf.plots.history import convergence
from probmf.plots.optimization import optimization
from probmf.plots.posterior import energy, forest, predictive_check, ranks
from probmf.plots.prediction import calibration, predicted_vs_observed

__all__ = [
    "calibration",
    "convergence",
    "degree_distribution",
    "diagnostics",
    "effects",
    "energy",
    "factor_map",
    "forest",
    "optimization",
    "predicted_vs_observed",
    "predictive_check",
    "ranks",
    "recommendations",
    "spectrum",
]
