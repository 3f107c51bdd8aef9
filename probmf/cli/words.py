"""Advice of the Python interface in the words of the command line."""

import re

#: Methods by the function that they are in Python.
METHODS = {
    "fit_als": "--method als",
    "fit_marginal": "--method likelihood",
    "fit_map": "--method map",
    "fit_svi": "--method svi",
    "fit_variational": "--method variational",
    "sample_gibbs": "--method gibbs",
    "sample_marginal": "--method marginal",
    "sample_nuts": "--method nuts",
}
#: Options whose Python names are no words of English, wherever they occur.
NAMES = (
    "batch_size", "item_bias", "item_bias_scale", "item_scale", "learning_rate", "noise_scale",
    "num_chains", "num_epochs", "num_factors", "num_samples", "num_steps", "num_sweeps",
    "num_warmup", "rank_by", "unobserved_weight", "user_bias", "user_bias_scale", "user_scale",
)  # fmt: skip
#: Options that are words of English, as in `rating=` or at the beginning of a message.
WORDS = (
    "candidates", "checkpoint", "covariance", "devices", "duplicates", "guide", "intercept",
    "interval", "item", "k", "likelihood", "marginalize", "rating", "seed", "solver", "stream",
    "thin", "threshold", "time", "update", "user", "weight",
)  # fmt: skip
#: What has another name, or no name, in Python.
PHRASES = {
    "num_sweeps of probmf.fit": "--num-sweeps of --method auto",
    "ratings.binarize(threshold)": "--threshold",
    "use a Gaussian likelihood": "use --likelihood gaussian",
    "exclude=None": "--seen",
    "num_restarts": "--restarts",
    "test_fraction": "--validation-fraction",
    "name the columns: column_names=[...]": "add one",
}
#: Options that other programs have, and what they are called here.
MEANT = {
    **dict.fromkeys(
        ("--components", "--dim", "--factors", "--n-factors", "--rank"), "--num-factors"
    ),
    **dict.fromkeys(("--iterations", "--max-iter", "--n-iter", "--sweeps"), "--num-sweeps"),
    **dict.fromkeys(("--epochs", "--n-epochs"), "--num-epochs"),
    **dict.fromkeys(("--lambda", "--reg", "--regularization"), "--user-scale, --item-scale"),
    **dict.fromkeys(("--burn-in", "--tune", "--warmup"), "--num-warmup"),
    **dict.fromkeys(("--chains", "--draws", "--samples"), "--num-chains, --num-samples"),
    **dict.fromkeys(("--overwrite", "--replace", "-f"), "--force"),
    **dict.fromkeys(("--dir", "--output", "-o"), "--out"),
    **dict.fromkeys(("--n", "--num-items", "--top", "-n"), "-k"),
    **dict.fromkeys(("--lr", "--step-size"), "--learning-rate"),
    **dict.fromkeys(("--random-state", "--key"), "--seed"),
}

_VALUE = r"('[^']*'|[\w.\-/]*[\w/])?"
_KEYWORD = re.compile(rf"(?<![\w'\-])({'|'.join((*NAMES, *WORDS))})={_VALUE}")
_NAME = re.compile(rf"(?<![\w'\-.])({'|'.join(NAMES)})(?![\w'])")
_FIRST = re.compile(rf"({'|'.join(WORDS)}) is ")


def in_options(text: str) -> str:
    """A message with the command line's options for arguments; names in quotes stay as they are."""
    for phrase, option in (PHRASES | METHODS).items():
        text = text.replace(phrase, option)
    text = _KEYWORD.sub(_as_option, text)
    text = _NAME.sub(lambda found: option_of(found[1]), text)
    first = _FIRST.match(text)
    return text if first is None else f"{option_of(first[1])} is {text[first.end() :]}"


def option_of(name: str) -> str:
    """The option of an argument's name."""
    return "-k" if name == "k" else f"--{name.replace('_', '-')}"


def _as_option(found: re.Match[str]) -> str:
    option, value = option_of(found[1]), (found[2] or "").strip("'")
    if value == "None":
        return f"no {option}"
    return f"{option} {value}".rstrip()
