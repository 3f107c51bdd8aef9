"""The fate of each site in words, and the nodes of a quadrature."""

from probmf.effects.quadrature import MAX_DIM, NUM_NODES
from probmf.inference.marginal.effect_blocks import Block, make_blocks
from probmf.inference.marginal.injection import MarginalizeError
from probmf.inference.marginal.layout import SiteChoice, Structure


def nodes_of(dim: int, num_nodes: int | None) -> int:
    """Nodes of a quadrature for each effect."""
    return NUM_NODES[dim] if num_nodes is None else num_nodes


def quadrature_nodes(structure: Structure, num_nodes: int | None) -> int:
    """Nodes of what is integrated out; 0 for Laplace's approximation.

    Args:
        structure: The structure.
        num_nodes: Those that were asked for; None for enough of them.

    Raises:
        MarginalizeError: If they were, and there is no quadrature of these effects.
    """
    if structure.is_gaussian:
        if num_nodes is not None:
            raise MarginalizeError(
                f"num_nodes is {num_nodes}, and effects of Gaussian observations are integrated "
                "out exactly.",
                "Leave it out.",
            )
        return 0
    grouped = [block for block, *_ in make_blocks(structure.found)]
    serves = len(grouped) == 1 and grouped[0].dim <= MAX_DIM and not grouped[0].is_flat
    if num_nodes is not None and num_nodes > 1 and not serves:
        raise MarginalizeError(
            f"num_nodes is {num_nodes}, and a quadrature is over one or two effects of each group "
            "of one grouping.",
            "Name fewer sites, or take num_nodes=1, Laplace's approximation.",
        )
    if not serves or num_nodes == 1:
        return 0
    return nodes_of(grouped[0].dim, num_nodes)


def inside_choices(structure: Structure, num_nodes: int | None) -> tuple[SiteChoice, ...]:
    """The sites that are integrated out, with the way."""
    done, nodes = "integrated out exactly", quadrature_nodes(structure, num_nodes)
    if not structure.is_gaussian:
        how = f"quadrature, {nodes} nodes each" if nodes else "Laplace's approximation"
        done = f"integrated out by {how}"
    layouts = [one.layout for one in structure.found]
    return tuple(SiteChoice(one.name, done, _words(one.num_groups, one.dim)) for one in layouts)


def named_choices(structure: Structure, num_nodes: int | None) -> tuple[SiteChoice, ...]:
    """The fate of each site, where some were named."""
    return inside_choices(structure, num_nodes) + tuple(
        SiteChoice(name, "sampled", "It was not named.") for name in structure.latent_shapes
    )


def quadrature_words(block: Block, num_nodes: int | None) -> str:
    """Why a block's effects are not integrated out by quadrature; empty where they are."""
    if block.num_groups == 1:
        return (
            "A quadrature is over effects of groups, and this enters all rows. (Named, it goes by "
            "Laplace's approximation.)"
        )
    if block.dim > MAX_DIM:
        return (
            f"A quadrature is over one or two effects of each group, and here are {block.dim}. "
            "(Named, they go by Laplace's approximation.)"
        )
    nodes = nodes_of(block.dim, num_nodes) ** block.dim
    if block.num_groups * block.dim < nodes:
        return (
            f"It does not pay: each row would be evaluated at {nodes} nodes to be rid of "
            f"{block.num_groups * block.dim} effects."
        )
    return ""


def _words(num_groups: int, dim: int) -> str:
    values = f"{dim} value{'s' if dim > 1 else ''}"
    return f"{values} for each of {num_groups:,} groups" if num_groups > 1 else f"{values} in all"
