"""Invented titles for simulated items: readable, unique, and the same every time."""

_ADJECTIVE_LIST = (
    "Amber Ancient Autumn Blue Borrowed Bright Broken Burning Careful Clever Copper Crimson "
    "Crooked Distant Drifting Early Electric Empty Endless Faded Fearless Final Forgotten Frozen "
    "Gentle Gilded Golden Hidden Hollow Honest Humble Hungry Invisible Iron Ivory Last Lonely Lost "
    "Lucky Marble Midnight Narrow Northern Patient Paper Perfect Quiet Restless Rising Sacred "
    "Scarlet Second Secret Silent Silver Sleeping Southern Stolen Stubborn Velvet Wandering Winter "
    "Wooden Young"
)
_NOUN_LIST = (
    "Aviary Bakery Balcony Bicycle Bridge Canary Captain Carnival Castle Cellist Clockmaker Comet "
    "Compass Cottage Daughter Detective Diamond Dragonfly Elephant Envelope Ferry Forest Fountain "
    "Garden Gardener Ghost Harbour Horizon Island Journey Juggler Kingdom Kitchen Ladder Lantern "
    "Letter Library Lighthouse Locksmith Machine Magician Melody Mirror Mountain Museum Neighbour "
    "Orchard Painter Passenger Piano Planet Postman Promise River Sailor Shadow Station Stranger "
    "Summer Theatre Umbrella Violin Voyage Witness"
)
_ADJECTIVES, _NOUNS = _ADJECTIVE_LIST.split(), _NOUN_LIST.split()
_NUM_PAIRS = len(_ADJECTIVES) * len(_NOUNS)
# Shares no divisor with the number of pairs, so that neighbours differ in both words and no pair
# comes back before all have been used.
_STRIDE = 1597


def invent_titles(num_titles: int) -> list[str]:
    """Titles such as "The Silver Lighthouse"; once the words run out, sequels of the same.

    Args:
        num_titles: How many, not negative.

    Returns:
        Distinct titles; the first n are the same for every `num_titles` >= n.

    Example:
        >>> invent_titles(3)
        ['The Amber Aviary', 'The Gentle Violin', 'The Sacred Summer']
    """
    titles = []
    for number in range(num_titles):
        sequel, place = divmod(number, _NUM_PAIRS)
        adjective, noun = divmod(place * _STRIDE % _NUM_PAIRS, len(_NOUNS))
        suffix = f" {sequel + 1}" if sequel else ""
        titles.append(f"The {_ADJECTIVES[adjective]} {_NOUNS[noun]}{suffix}")
    return titles
