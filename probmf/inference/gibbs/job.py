"""Interface between a Gibbs run and the model, of whichever family."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from probmf.inference.gibbs.chains import Engine, GibbsChains, GibbsSettings
from probmf.memory import require_memory
from probmf.results import Sampling
from probmf.results.records import RowMoments
from probmf.run.draw_stream import StreamLayout, StreamSite

#: Draws of the rows that are kept by default, of all chains.
KEPT = 200
#: Bytes that kept draws may take by default, if they are more than so many.
KEPT_BYTES = 1 << 28


class Job(NamedTuple):
    """A model with its data, ready to be sampled.

    Attributes:
        engine: Its sweeps.
        starts: A state for each chain.
        identity: Everything that the draws depend on besides the settings, as text.
        stream: What is written of each draw to a stream.
        coords: Labels by dimension.
        finish: From settings, chains and information on the run to the fit.
    """

    engine: Engine
    starts: Sequence[Any]
    identity: str
    stream: tuple[StreamSite, ...]
    coords: Mapping[str, np.ndarray]
    finish: Callable[[GibbsSettings, GibbsChains, dict[str, Any]], Any]

    def layout(self, settings: GibbsSettings) -> StreamLayout:
        """Sites that a stream of this job holds."""
        return StreamLayout(
            self.stream, self.coords, settings.num_chains,
            settings.num_samples // settings.rows_every, np.dtype(jnp.result_type(float)), "gibbs",
        )  # fmt: skip


def choose_settings(
    engine: Engine, warmup: int, samples: int, chains: int, thin: int | None, *, streamed: bool
) -> GibbsSettings:
    """Settings of a run whose kept draws fit into memory.

    `thin` says which sweeps' rows are kept, or written out (`streamed`). Memory then keeps of them
    what it does by default.
    """
    draw = draw_bytes(engine)
    most = max(KEPT, KEPT_BYTES // draw)
    own = thin if thin is not None else 1
    if streamed:
        memory = own * max(1, -(-(samples // own) * chains // most))
    else:
        memory = thin if thin is not None else max(1, -(-samples * chains // most))
    if max(own, memory) > samples:
        raise ValueError(
            f"thin is {max(own, memory)}, but there are {samples} sweeps after the warm-up: no "
            "draw of the rows would be kept. Lower thin or raise num_samples."
        )
    settings = GibbsSettings(warmup, samples, chains, memory, own if streamed else 0)
    # Pieces and what they are joined to exist together for a moment.
    require_memory(
        2 * draw * chains * (settings.num_kept + 1),
        f"The draws of all rows ({chains} chains x {settings.num_kept} kept, twice while they are "
        "joined)",
        "Raise thin, or lower num_samples, num_chains or num_factors, or write the draws to disk "
        "with stream=.",
    )
    return settings


def draw_bytes(engine: Engine) -> int:
    """Memory of one draw of all rows."""
    return max(1, engine.contents.num_numbers * jnp.dtype(jnp.result_type(float)).itemsize)


def size_note(engine: Engine, settings: GibbsSettings, layout: StreamLayout, where: Any) -> str:
    """Number of draws kept and their memory, in words."""
    count = settings.num_chains * settings.num_kept
    note = f"keeps {count:,} draws, {count * draw_bytes(engine) / 2**20:,.0f} MiB"
    if where is None:
        return note
    streamed = layout.num_chains * layout.num_draws
    return f"{note}; writes {streamed:,} draws, {layout.size / 2**20:,.0f} MiB, to {where}"


def sampling_of(
    settings: GibbsSettings, chains: GibbsChains, at: np.ndarray, info: dict[str, Any]
) -> Sampling:
    """Record of a run; `at` are the sweeps whose rows are kept."""
    done = chains.traces["lp"].shape[1]
    told = {"num_sweeps": done, "thin": settings.thin}
    if settings.stream_every:
        told["stream_thin"] = settings.stream_every
    return Sampling(
        stats={"lp": chains.traces["lp"][:, at]}, num_warmup=settings.num_warmup,
        seconds=info["seconds"], complete=chains.complete,
        info=told | {name: value for name, value in info.items() if name != "seconds"},
    )  # fmt: skip


def row_moments(chains: GibbsChains) -> RowMoments:
    """Moments of the rows over all sweeps."""
    return RowMoments(chains.mean, chains.sd, chains.traces["lp"].shape[1])
