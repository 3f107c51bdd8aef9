"""Results: fits of ratings, mixed models and networks, their predictions, rankings and storage."""

from probmf import numpyro_setup  # noqa: F401  # Before anything that imports NumPyro.

# isort: split
from probmf.results.anova import anova
from probmf.results.draw_store import open_draws
from probmf.results.estimates import Estimates
from probmf.results.fit import Fit
from probmf.results.load import load
from probmf.results.mixed_fit import MixedFit
from probmf.results.network_fit import NetworkFit
from probmf.results.one_user import Explanation, Questions, RankPosterior
from probmf.results.predictions import Predictions
from probmf.results.ratings_fit import RatingsFit
from probmf.results.recommend import Recommendations
from probmf.results.records import History, Maximum, Sampling

__all__ = [
    "Estimates",
    "Explanation",
    "Fit",
    "History",
    "Maximum",
    "MixedFit",
    "NetworkFit",
    "Predictions",
    "Questions",
    "RankPosterior",
    "RatingsFit",
    "Recommendations",
    "Sampling",
    "anova",
    "load",
    "open_draws",
]
