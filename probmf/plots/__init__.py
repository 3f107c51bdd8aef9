"""Pictures of data, fits and recommendations.

Every function returns its figure, which a notebook shows as the last line of a cell and which a
script saves: `plots.calibration(fit, test).savefig("calibration.png")`. Functions with an argument
`ax` draw into it; without it, and in all others, the figure is a new one that pyplot does not know
about.
"""

from probmf.plots.estimates import estimates
from probmf.plots.factors import factor_map, spectrum
from probmf.plots.forest import confidence_intervals, effects, forest
from probmf.plots.history import convergence, optimization
from probmf.plots.posterior import diagnostics, energy, ranks, trace
from probmf.plots.prediction import calibration, predicted_vs_observed
from probmf.plots.predictive import predictive_check
from probmf.plots.profile import degree_distribution, recommendations, user_profile

__all__ = [
    "calibration",
    "confidence_intervals",
    "convergence",
    "degree_distribution",
    "diagnostics",
    "effects",
    "energy",
    "estimates",
    "factor_map",
    "forest",
    "optimization",
    "predicted_vs_observed",
    "predictive_check",
    "ranks",
    "recommendations",
    "spectrum",
    "trace",
    "user_profile",
]
