"""Prior means and encodings of features as plain values for JSON."""

from collections.abc import Mapping
from typing import Any

from numpyro.distributions import Distribution

from probmf.data import Encoder
from probmf.models.factorization import MatrixFactorization
from probmf.models.layers import MLP, Linear
from probmf.results.laws import is_law, read_law, write_law

#: Arguments of layers that may be one value or a tuple of one for each layer.
BY_LAYER = ("weight_scale", "bias_scale", "bias")


def write_means(model: MatrixFactorization) -> dict[str, Any]:
    """Layers and encodings by the argument of the model; empty without any."""
    written: dict[str, Any] = {}
    for side in model.mean_sides:
        name = f"{side}_mean"
        written[name] = write_layers(name, getattr(model, name))
        written[f"{side}_features"] = getattr(model, f"{side}_features").to_config()
    return written


def read_means(config: Mapping[str, Any]) -> dict[str, Any]:
    """What `write_means` wrote, as arguments of the model."""
    arguments: dict[str, Any] = {}
    for side in ("user", "item"):
        if f"{side}_mean" in config:
            arguments[f"{side}_mean"] = read_layers(config[f"{side}_mean"])
            arguments[f"{side}_features"] = Encoder.from_config(config[f"{side}_features"])
    return arguments


def write_layers(name: str, layers: MLP) -> dict[str, Any]:
    """Layers for JSON; `name` is the argument that they are, for messages."""
    written: dict[str, Any] = {"kind": "linear" if isinstance(layers, Linear) else "mlp"}
    if not isinstance(layers, Linear):
        written |= {"hidden": list(layers.hidden), "activation": layers.activation}
    for field in BY_LAYER:
        value = getattr(layers, field)
        many = isinstance(value, tuple)
        parts = [_write_part(f"{name}'s {field}", part) for part in (value if many else (value,))]
        written[field] = parts if many else parts[0]
    return written


def _write_part(name: str, value: Any) -> Any:
    if isinstance(value, Distribution):
        return write_law(name, value)
    return value if value is None or isinstance(value, str | bool) else float(value)


def read_layers(config: Mapping[str, Any]) -> MLP:
    """The layers that `write_layers` wrote."""
    fields = dict(config)
    kind = fields.pop("kind")
    for field in BY_LAYER:
        value = fields[field]
        fields[field] = tuple(map(_read_part, value)) if isinstance(value, list) else _read_part(
            value
        )  # fmt: skip
    if kind == "linear":
        return Linear(**fields)
    return MLP(**{**fields, "hidden": tuple(fields["hidden"])})


def _read_part(value: Any) -> Any:
    return read_law(value) if is_law(value) else value
