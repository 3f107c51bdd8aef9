"""Handlers of NumPyro's that bring the forms of a site to one, and refuse what has no meaning."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.primitives import Messenger

from probmf.inference.marginal.injection import MarginalizeError
from probmf.run.compilation import as_tree


@jax.tree_util.register_pytree_node_class
class Whole(Messenger):
    """Makes what is drawn, or observed, at a site as large as the site's distribution.

    NumPyro draws `sample_shape` values from a distribution that knows nothing of them, and takes
    observations larger than their distribution. A pytree, as its model is.
    """

    def tree_flatten(self) -> tuple[tuple[Any], None]:
        """The model."""
        return (as_tree(self.fn),), None

    @classmethod
    def tree_unflatten(cls, _: None, parts: tuple[Any]) -> "Whole":
        """The same with another model."""
        return cls(parts[0])

    def process_message(self, msg: dict[str, Any]) -> None:
        """Called by NumPyro for every site, after the plates within the model."""
        if msg["type"] != "sample":
            return
        law, value = msg["fn"], msg["value"]
        more = msg["kwargs"].get("sample_shape", ())
        if more and msg.get("_control_flow_done"):
            raise MarginalizeError(
                f"The site {msg['name']!r} within scan has sample_shape {more}, which NumPyro "
                "mixes up with the steps; write .expand(...) of its distribution instead."
            )
        batch = tuple(more) + tuple(law.batch_shape)
        if msg["is_observed"] and value is not None:
            shape = np.shape(value)
            values = tuple(shape[: len(shape) - law.event_dim])
            batch = _rows(msg["name"], values, batch)
            if more and len(values) < len(batch):
                raise MarginalizeError(
                    f"The observed site {msg['name']!r} has values of shape {shape}; with its "
                    f"sample_shape {more} they have shape {batch + tuple(law.event_shape)}. Give "
                    "it as many values."
                )
        msg["fn"] = law.expand(batch)
        if more:
            msg["kwargs"]["sample_shape"] = ()


def _rows(name: str, values: tuple[int, ...], batch: tuple[int, ...]) -> tuple[int, ...]:
    """The larger of two shapes, of the observed values and of their distribution."""
    for small, large in ((values, batch), (batch, values)):
        pairs = zip(reversed(small), reversed(large), strict=False)
        if len(small) <= len(large) and all(one in (1, other) for one, other in pairs):
            return large
    raise MarginalizeError(
        f"The observed site {name!r} has values of shape {values} and a distribution of shape "
        f"{batch}, of which neither holds the other. Give it one value for each row: a vector "
        "where the location is one, not a column or a matrix."
    )


class OneEvent(Messenger):
    """Refuses handlers around a marginal model that would treat its rows one by one."""

    def postprocess_message(self, msg: dict[str, Any]) -> None:
        """Called by NumPyro when all handlers outside have seen the site."""
        if msg["type"] != "sample":
            return
        if msg["fn"].batch_shape:
            what = "A mask with a value for each row, or a plate,"
        elif jnp.ndim(1.0 if msg["scale"] is None else msg["scale"]):
            what = "A scale with a value for each row"
        else:
            return
        raise MarginalizeError(
            f"{what} is around the marginal model, whose observations {msg['name']!r} have one log "
            "density together. Put it into the model, or around it before effects are integrated "
            "out."
        )


#: What NumPyro's reparametrizers call the site that is sampled in place of another.
REPARAMETRIZED = ("decentered", "base")


def check_names(sites: Iterable[str], trace: Mapping[str, Any]) -> None:
    """Every site to integrate out has to be one that is sampled.

    Args:
        sites: Their names.
        trace: The model's sites.
    """
    latent = [n for n, s in trace.items() if s["type"] == "sample" and not s["is_observed"]]
    for name in sites:
        if name in latent:
            continue
        found = trace.get(name)
        if found is None:
            why = (
                f"is not in the model, or hidden by handlers.block; its latent sites are "
                f"{quoted(latent) or 'none'}"
            )
        elif found["type"] == "sample":
            why = "is observed, so it can't be integrated out"
        elif found["type"] == "param":
            why = "is a param site, which has no prior; sample it from a Normal to integrate it out"
        elif found["type"] == "deterministic":
            others = [f"{name}_{end}" for end in REPARAMETRIZED if f"{name}_{end}" in latent]
            which = quoted(others) if others else "the site that it is computed of"
            why = f"is a deterministic site, not a sample site; name {which} instead"
        else:
            why = f"is a {found['type']} site, not a sample site"
        raise MarginalizeError(f"The site {name!r} {why}.")


def check_plates(trace: Mapping[str, Any]) -> None:
    """No plate may be subsampled."""
    for name, site in trace.items():
        if site["type"] == "plate" and len(site["value"]) != site["args"][0]:
            raise MarginalizeError(
                f"The plate {name!r} is subsampled ({len(site['value'])} of {site['args'][0]}); "
                "integrating out needs all observations. Leave subsample_size out."
            )


def hint_of(name: str) -> str:
    """Further advice on a latent site whose prior depends on effects."""
    if name.endswith("_unobserved"):
        return (
            ". (It is there for obs_mask; to leave rows out, mask the observations with "
            "handlers.mask instead)"
        )
    return f", or name {name!r} as well, if it is an effect"


def quoted(names: Iterable[str]) -> str:
    """Names for a message: 'a', 'b'."""
    return ", ".join(repr(name) for name in names)
