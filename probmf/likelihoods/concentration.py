"""Likelihoods whose one parameter of their own is a concentration."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from numpyro.distributions import Distribution

from probmf.likelihoods.parameters import LOG_CONCENTRATION, check_parameter, concentration_prior
from probmf.likelihoods.quadrature import QuadratureLikelihood


@dataclass(frozen=True)
class Concentrated(QuadratureLikelihood):
    """Base class of them: the larger it is, the less responses vary about their mean.

    Attributes:
        concentration: A positive number, or a NumPyro distribution for it; None is 1, and in a
            mixed model the default prior.
        expected: Words for it in messages.
    """

    concentration: float | Distribution | None = None
    expected: ClassVar[str] = "positive number"
    scale_parameter = "concentration"

    def __post_init__(self) -> None:
        """Check the concentration at the door."""
        check_parameter("concentration", self.concentration, self.expected)

    def scale_place(self, spread: float) -> tuple[float, float]:
        """Mean and sd of the logarithm of a concentration under its default prior."""
        return LOG_CONCENTRATION

    def scale_sites(self) -> dict[str, Any]:
        """The concentration; 1 where none was given."""
        return {"concentration": 1.0 if self.concentration is None else self.concentration}

    def canonical(self) -> Self:
        """The likelihood without its parameter: compiled programs are keyed by it."""
        return type(self)()

    @property
    def stated(self) -> dict[str, Any]:
        """The concentration, if it was given."""
        return {} if self.concentration is None else {"concentration": self.concentration}

    def default_priors(self, width: float) -> dict[str, Distribution]:
        """A LogNormal concentration: a median of 2.7, nine tenths between 0.23 and 32."""
        return {"concentration": concentration_prior()}
