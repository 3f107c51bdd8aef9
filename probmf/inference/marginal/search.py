"""The largest set of sites that can be integrated out, read from the program.

Sites that can't be are put aside one after the other, each with what is in its way, until the rest
can be integrated out together. Nothing is judged by the size of a number: a site enters what the
traced program says that it enters, and its slope depends on what the program says.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from probmf.effects import RemainderTooLargeError, make_pattern
from probmf.inference.marginal.effect_blocks import Block, make_blocks
from probmf.inference.marginal.forms import check_plates, quoted
from probmf.inference.marginal.injection import (
    EFFECTS,
    MarginalizeError,
    Model,
    is_flat,
    is_kind,
    unwrap,
)
from probmf.inference.marginal.layout import SiteChoice, Structure
from probmf.inference.marginal.probe import Probe, draw_values, is_latent
from probmf.inference.marginal.site_choices import inside_choices, quadrature_words
from probmf.inference.marginal.structure import Slope, probed_structure
from probmf.inference.marginal.traced import Traced

#: Columns that may be left when one grouping is eliminated. With more of them the factor of their
#: matrix, for each gradient, takes NUTS longer than sampling their effects (see docs/marginal.md).
MOST_COLUMNS = 256


def find_structure(
    model: Model, args: tuple[Any, ...], kwargs: Mapping[str, Any], num_nodes: int | None
) -> tuple[Structure, tuple[SiteChoice, ...]]:
    """Choose the sites, and find how they enter: exactly what can be, else one grouping otherwise.

    Args:
        model: The NumPyro model.
        args: Its arguments, concrete.
        kwargs: Its keyword arguments.
        num_nodes: Nodes of a quadrature for each effect, if they are given.

    Returns:
        The structure of what is integrated out, and what becomes of each site.

    Raises:
        MarginalizeError: If nothing can be integrated out, with the reason for each site.
    """
    search = Search(model, args, kwargs)
    try:
        structure = search.run()
    except NothingLeftError:
        if not search.others:
            raise
        search = Search(model, args, kwargs, gaussian=False, num_nodes=num_nodes)
        structure = search.run()
    return structure, search.choices(structure)


class NothingLeftError(MarginalizeError):
    """No site can be integrated out."""


class Search:
    """A search among the latent sites of a model with its data.

    Args:
        model: The NumPyro model.
        args: Its arguments.
        kwargs: Its keyword arguments.
        gaussian: Whether to look for effects of Gaussian observations, or of all others.
        num_nodes: Nodes of a quadrature for each effect, if they are given.
    """

    def __init__(
        self,
        model: Model,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        gaussian: bool = True,
        num_nodes: int | None = None,
    ) -> None:
        """Put aside the sites without a Gaussian or flat prior."""
        self.model, self.args, self.kwargs = model, args, kwargs
        self.gaussian, self.num_nodes = gaussian, num_nodes
        self.others = False
        trace, values = draw_values(model, args, kwargs, 0)
        check_plates(trace)
        self.sizes = {n: int(np.size(values[n])) for n, s in trace.items() if is_latent(s)}
        self.reasons: dict[str, str] = {}
        for name in self.sizes:
            site = trace[name]
            if site["type"] == "param":
                self.reasons[name] = "It is a param, which has no prior."
            elif not _is_gaussian(site["fn"]):
                kind = type(unwrap(site["fn"])).__name__
                self.reasons[name] = f"Its prior is {kind}, neither Gaussian nor flat."
            elif not gaussian and is_flat(site["fn"]):
                self.reasons[name] = "Its prior is flat, and only effects of groups go here."

    @property
    def left(self) -> tuple[str, ...]:
        """Sites that nothing is known against."""
        return tuple(name for name in self.sizes if name not in self.reasons)

    def choices(self, structure: Structure) -> tuple[SiteChoice, ...]:
        """The fate of each site."""
        inside = {choice.site: choice for choice in inside_choices(structure, self.num_nodes)}
        return tuple(
            inside[name] if name in inside else SiteChoice(name, "sampled", self.reasons[name])
            for name in self.sizes
        )

    def run(self) -> Structure:
        """Put sites aside until the others can be integrated out."""
        while self.left:
            try:
                probe = Probe(self.model, self.left, self.args, self.kwargs)
                if (
                    self._set_faults_aside(probe)
                    or self._set_predictors_aside(probe)
                    or self._set_slopes_aside(probe)
                ):
                    continue
                structure = probed_structure(probe)
            except MarginalizeError as error:
                if not error.sites:
                    raise
                self._put_aside(error.sites, error.reason)
                continue
            aside = self._set_costs_aside if self.gaussian else self._set_blocks_aside
            if not aside(structure):
                return structure
        raise NothingLeftError(
            "Nothing can be integrated out. "
            + " ".join(f"{name!r}: {reason}" for name, reason in self.reasons.items()),
            "Sample the model as it is.",
        )

    def _put_aside(self, sites: Iterable[str], reason: str) -> bool:
        for site in sites:
            self.reasons.setdefault(site, reason)
        return bool(sites)

    def _set_faults_aside(self, probe: Probe) -> bool:
        """Sites that enter what they may not, or another observed site than most do."""
        faults = list(probe.faults())
        for fault in faults:
            self._put_aside(fault.sites, fault.reason)
        if faults:
            return True
        reached = probe.reached
        fit = {
            name: sites for name, sites in reached.items()
            if probe.is_gaussian(name) == self.gaussian
        }  # fmt: skip
        several = {site for sites in reached.values() for site in sites
                   if sum(site in own for own in reached.values()) > 1}  # fmt: skip
        found = False
        for name, sites in reached.items():
            if name not in fit:
                self.others = True
                kind = probe.kinds[name].__name__
                why = f"It enters the observed site {name!r}, which is {kind}."
                found |= self._put_aside(sites, why)
        found |= self._put_aside(several, "It enters several observed sites.")
        nowhere = [site for site in self.left if not any(site in own for own in reached.values())]
        found |= self._put_aside(nowhere, "No observation depends on it.")
        if found or len(fit) <= 1:
            return found
        best = max(fit, key=lambda name: sum(self.sizes[site] for site in fit[name]))
        for name, sites in fit.items():
            if name != best:
                why = f"It enters the observed site {name!r}, and others enter {best!r}."
                found |= self._put_aside(sites, why)
        return found

    def _set_predictors_aside(self, probe: Probe) -> bool:
        """Sites that enter an observed site without a density of its own through no predictor."""
        if self.gaussian:
            return False
        program = probe.program(probe.latents, probe.zeros())
        predictors = {name: program.find_predictor([name]) for name in self.left}
        none = [name for name, number in predictors.items() if number is None]
        why = f"It enters {probe.target!r} through no linear predictor, a number for each row."
        if self._put_aside(none, why):
            return True
        size = {
            number: sum(self.sizes[name] for name, own in predictors.items() if own == number)
            for number in predictors.values()
        }
        best = max(size, key=lambda number: size[number])
        others = [name for name, number in predictors.items() if number != best]
        why = f"It enters {probe.target!r} through another predictor than effects of more values."
        if self._put_aside(others, why):
            return True
        if program.find_predictor(self.left) is not None:
            return False
        least = min(self.left, key=lambda name: self.sizes[name])
        why = f"It enters {probe.target!r} with the other effects through no predictor together."
        return self._put_aside([least], why)

    def _set_blocks_aside(self, structure: Structure) -> bool:
        """All but the largest grouping that a quadrature serves, and pays for."""
        found, others = [], []
        for block, *_ in make_blocks(structure.found):
            names = [layout.name for layout in block.layouts]
            why = quadrature_words(block, self.num_nodes)
            if why:
                others.append((names, why))
            else:
                found.append((block.num_groups * block.dim, names))
        for _, names in sorted(found, reverse=True)[1:]:
            best = max(found)[1]
            others.append(
                (names, f"A quadrature is over one grouping, and {quoted(best)} has more effects.")
            )
        if found and not others:
            ((size, names),) = found
            left = sum(self.sizes.values()) - size
            if left > size:
                why = f"{left:,} other numbers would be left beside {size:,} effects."
                others.append((names, f"It does not pay: {why}"))
        for names, why in others:
            self._put_aside(names, why)
        return bool(others)

    def _set_slopes_aside(self, probe: Probe) -> bool:
        """Sites that don't enter affinely, and the fewest values of products of sites."""
        location = Traced(probe.location, probe.latents, probe.zeros())
        # The leaves of a mapping lie in the order of its sorted keys.
        leaves = {name: leaf for leaf, name in enumerate(sorted(probe.shapes))}
        found = False
        products: set[tuple[str, str]] = set()
        for name, leaf in leaves.items():
            kink = location.kink_of(1, leaf)
            slope = Slope(probe, name).traced
            if kink is not None:
                why = f"It goes through {kink!r} on its way to {probe.target!r}."
                found |= self._put_aside([name], why)
            elif slope.depends_on(1, leaf):
                why = f"Its slope in {probe.target!r} depends on its own value."
                found |= self._put_aside([name], why)
            products |= {
                (min(name, other), max(name, other))
                for other, place in leaves.items()
                if other != name and slope.depends_on(1, place)
            }
        if found or not products:
            return found
        needs = {name: _needed_by(probe, name) for name in self.left}
        kept = largest(self.sizes, needs, frozenset(self.left), frozenset(products))
        for name in self.left:
            if name not in kept:
                self._put_aside([name], _product_words(name, products, needs, kept))
        return True

    def _set_costs_aside(self, structure: Structure) -> bool:
        """Whole groupings of which too many columns would be left."""
        grouped = make_blocks(structure.found)
        sizes = [block.num_groups * block.dim for block, *_ in grouped]
        try:
            pattern = make_pattern([block.grouping(group) for block, group, _ in grouped])
            if pattern.num_columns <= MOST_COLUMNS:
                return False
            lead = pattern.order[0]
        except RemainderTooLargeError:
            lead = int(np.argmax(sizes))
        size, block = max(
            ((size, block) for place, (size, (block, *_)) in
             enumerate(zip(sizes, grouped, strict=True)) if place != lead),
            key=lambda one: one[0],
        )  # fmt: skip
        return self._put_aside(*_cost_words(block, size, sum(sizes) - sizes[lead]))


def _is_gaussian(law: Any) -> bool:
    return is_kind(type(unwrap(law)), *EFFECTS) or is_flat(law)


def _cost_words(block: Block, size: int, columns: int) -> tuple[list[str], str]:
    names = [layout.name for layout in block.layouts]
    return names, (
        f"It does not pay: beside the largest grouping {columns:,} effects would be left in a "
        f"dense matrix, {size:,} of them of {quoted(names)}, to be factored for each gradient; at "
        f"most {MOST_COLUMNS} are worth it."
    )


def _needed_by(probe: Probe, name: str) -> frozenset[str]:
    """Sites whose prior means depend on a site, so that it goes only if they do."""
    leaf = sorted(probe.shapes).index(name)
    on = probe.traced.depends_on(1, leaf)["centers"]
    return frozenset(other for other, depends in on.items() if depends and other != name)


def largest(
    sizes: Mapping[str, int],
    needs: Mapping[str, frozenset[str]],
    sites: frozenset[str],
    products: frozenset[tuple[str, str]],
) -> frozenset[str]:
    """The sites of the most values without a product of two of them, and with all that each needs.

    Args:
        sizes: Values of each site.
        needs: Sites that have to be there for a site to be.
        sites: Sites to choose from.
        products: Pairs that can't both be there.

    Returns:
        The sites. All ways to leave one of each pair out are tried, at most two for each pair.
    """
    sites = _supported(sites, needs)
    pair = next((pair for pair in sorted(products) if sites.issuperset(pair)), None)
    if pair is None:
        return sites
    ways = [largest(sizes, needs, sites - {one}, products - {pair}) for one in pair]
    return max(ways, key=lambda way: sum(sizes[name] for name in way))


def _supported(sites: frozenset[str], needs: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """Without those that lack what they need."""
    while not all(needs[name] <= sites for name in sites):
        sites = frozenset(name for name in sites if needs[name] <= sites)
    return sites


def _product_words(
    name: str,
    products: set[tuple[str, str]],
    needs: Mapping[str, frozenset[str]],
    kept: frozenset[str],
) -> str:
    """Why a site is left out for others."""
    partners = sorted(
        {other for pair in products if name in pair for other in pair if other != name} & kept
    )
    if partners:
        return f"It multiplies {quoted(partners)}, of as many values in all or more."
    lacking = sorted(needs[name] - kept)
    return f"It is the prior mean of {quoted(lacking)}, sampled as well."
