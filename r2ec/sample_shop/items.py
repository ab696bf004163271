"""The items of the sample shop as arrays: who made each, what it is, how it looks, since when."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from r2ec.sample_shop.goods import DEPARTMENTS, KINDS, THEMES

ITEMS_EXPONENT = 0.69
ITEMS_PER_KIND_AND_BRAND = 3
ITEMS_PER_DEPARTMENT = 60
POPULARITY_EXPONENT = 0.75
NEW_ITEM_SHARE = 0.4

SYLLABLES = tuple(
    tuple(part.split())
    for part in (
        "Bra Cor Del Fen Gal Hal Jor Kel Lum Mar Nor Ost Pel Quin Ros Sol Tam Ver Wil Zan",
        "a e i o u an el in or ur",
        "bex dale fort gen kin lux mont nova ric son tek vorn",
    )
)
NUM_BRAND_NAMES = math.prod(len(part) for part in SYLLABLES)


@dataclass(frozen=True, kw_only=True, slots=True)
class Items:
    """One entry an item; `I` items, the shop's whole metadata but its words."""

    kind_I: NDArray[np.int64]
    department_I: NDArray[np.int64]
    brand_I: NDArray[np.int64]  # numbers brands over the whole shop, see `brand_name`
    theme_I: NDArray[np.int64]
    popularity_I: NDArray[np.float64]  # weights, Zipf over a random order
    release_I: NDArray[np.float64]  # share of the log's span after which the item is sold
    price_I: NDArray[np.float64]
    num_departments: int
    brands_per_department: int

    def __len__(self) -> int:
        return len(self.kind_I)


def num_items_for(num_events: int) -> int:
    """How many items a shop with this many events sells: events ** 0.69, at least 40."""
    return max(40, round(math.pow(num_events, ITEMS_EXPONENT)))


def brand_name(brand: int) -> str:
    """A pronounceable name, one for each number; from 2,400 brands on a letter is added."""
    first, middle, last = SYLLABLES
    lap, number = divmod(brand, NUM_BRAND_NAMES)
    number, one = divmod(number * 1009 % NUM_BRAND_NAMES, len(first))
    three, two = divmod(number, len(middle))
    name = first[one] + middle[two] + last[three]
    return name if lap == 0 else f"{name} {chr(ord('A') + lap - 1)}"


def build_items(num_events: int, seed: int) -> Items:
    """Draw the items of a shop with `num_events` events; the same arguments give the same items."""
    rng = np.random.default_rng([seed, 0])
    num_items = num_items_for(num_events)
    num_departments = int(np.clip(num_items // ITEMS_PER_DEPARTMENT, 2, len(DEPARTMENTS)))
    kinds = np.array([i for i, kind in enumerate(KINDS) if kind.department < num_departments])
    brands_per_department = int(
        np.clip(round(num_items / len(kinds) / ITEMS_PER_KIND_AND_BRAND), 3, 500)
    )
    # Every kind comes about equally often, so that each has follow-ups on the shelf.
    kind_I = rng.permutation(np.resize(kinds, num_items))
    department_I = np.array([kind.department for kind in KINDS])[kind_I]
    brand_I = department_I * brands_per_department + rng.integers(
        brands_per_department, size=num_items
    )
    base_price_I = np.array([kind.price for kind in KINDS])[kind_I]
    release_I = rng.random(num_items)
    release_I[rng.random(num_items) >= NEW_ITEM_SHARE] = 0.0
    return Items(
        kind_I=kind_I,
        department_I=department_I,
        brand_I=brand_I,
        theme_I=rng.integers(len(THEMES), size=num_items),
        popularity_I=np.power(1.0 + rng.permutation(num_items), -POPULARITY_EXPONENT),
        release_I=release_I,
        price_I=np.round(base_price_I * rng.lognormal(0.0, 0.3, num_items), 0) + 0.99,
        num_departments=num_departments,
        brands_per_department=brands_per_department,
    )


def item_id(index: int) -> str:
    """The shop's id of an item, ten characters like a real one; one for each index."""
    number = (index * 1_234_567_891 + 771_234_567) % 36**8
    digits = ""
    for _ in range(8):
        number, digit = divmod(number, 36)
        digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"[digit] + digits
    return f"B0{digits}"
