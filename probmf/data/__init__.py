"""The data door: tables with ids come in, arrays with codes go on, and ids come back."""

from probmf.data.confidence import confidence_weights
from probmf.data.encoder import Encoder
from probmf.data.examples import Examples, ExamplesWarning
from probmf.data.features import Features
from probmf.data.keys import as_generator, as_key, wrap_words
from probmf.data.merge import encode_pairs
from probmf.data.rating_fields import Duplicates
from probmf.data.ratings import Ratings
from probmf.data.vocabulary import Vocabulary

__all__ = [
    "Duplicates",
    "Encoder",
    "Examples",
    "ExamplesWarning",
    "Features",
    "Ratings",
    "Vocabulary",
    "as_generator",
    "as_key",
    "confidence_weights",
    "encode_pairs",
    "wrap_words",
]
