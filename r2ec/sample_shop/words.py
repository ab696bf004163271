"""What an item's page says: title, features and description, written by a small grammar."""

import html
from random import Random
from typing import Any

from r2ec.sample_shop.goods import DEPARTMENTS, KINDS, THEMES, Kind
from r2ec.sample_shop.items import Items, brand_name, item_id

EMOJI = ("🌊", "🌲", "🎸", "🎁", "✨", "🐾", "🎨", "☕", "🚀", "🦊")

# Shares of the dirt in the metadata, of all items; the README beside the files states them.
METADATA_DIRT = {
    "title with HTML entities": 0.03,
    "title with an emoji": 0.03,
    "description with HTML tags": 0.06,
    "description that writes model markers": 0.003,
    "no description": 0.05,
    "no price": 0.08,
    "no store": 0.03,
    "no categories": 0.01,
}
PLURALS = {kind.name: kind.plural for kind in KINDS}
MARKERS = ("<answer>", "&lt;answer&gt;", "<|im_end|>", "<eos>")


def item_record(items: Items, index: int, seed: int) -> tuple[dict[str, Any], list[str]]:
    """The metadata record of an item in the Amazon-Reviews-2023 layout, and the dirt it carries.

    The same seed and index give the same record.
    """
    rng = Random(f"{seed}:{index}")
    kind = KINDS[items.kind_I[index]]
    brand = brand_name(int(items.brand_I[index]))
    theme, motifs = THEMES[items.theme_I[index]]
    department = DEPARTMENTS[kind.department].name
    record: dict[str, Any] = {
        "main_category": department,
        "title": _title(rng, kind, brand, theme),
        "average_rating": None,
        "rating_number": None,
        "features": _features(rng, kind, theme, motifs),
        "description": [_description(rng, kind, brand, theme, motifs)],
        "price": float(items.price_I[index]),
        "store": brand,
        "categories": [department, kind.plural.title().replace(" Of ", " of ")],
        "details": {"Brand": brand, "Theme": theme},
        "parent_asin": item_id(index),
    }
    dirt = [name for name, share in METADATA_DIRT.items() if rng.random() < share]
    for name in dirt:
        _soil(rng, record, name)
    return record, dirt


def _title(rng: Random, kind: Kind, brand: str, theme: str) -> str:
    name, variant = kind.name.title(), rng.choice(kind.variants)
    code = f"{brand[:2].upper()}-{rng.randrange(100, 1000)}"
    patterns = (
        f"{brand} {theme} {name} {code}, {variant}",
        f"{brand} {name} {code}, {theme} Edition, {variant}",
        f"{brand} {name}, {variant} - {theme} Series",
        f"{theme} {name} by {brand}, {variant}",
        f"{brand} {name} ({variant}) in {theme} Design",
    )
    return rng.choice(patterns)


def _features(rng: Random, kind: Kind, theme: str, motifs: tuple[str, ...]) -> list[str]:
    lines = [
        f"{kind.name.capitalize()} that {rng.choice(kind.uses)}",
        f"{theme} design with {rng.choice(motifs)}",
        rng.choice(kind.variants),
    ]
    return lines[: rng.randrange(4)]


def _description(rng: Random, kind: Kind, brand: str, theme: str, motifs: tuple[str, ...]) -> str:
    department = DEPARTMENTS[kind.department]
    people, motif, use = rng.choice(department.people), rng.choice(motifs), rng.choice(kind.uses)
    subject = f"{brand} {kind.name}"
    openings = (
        f"The {subject} {use}.",
        f"Made for {people}, the {subject} {use}.",
        f"Our {subject} {use}, and {people} love that.",
    )
    looks = (
        f"Its {theme} look brings {motif} to your {department.place}.",
        f"The {theme} series is full of {motif}.",
        f"Drawn for people who love {motif}, in our {theme} design.",
        f"The {theme} theme shows {motif} in fine detail.",
    )
    more = [rng.choice(looks)]
    if kind.follow_ups:
        needed = f"{brand} {PLURALS[rng.choice(kind.follow_ups)]}"
        more.append(
            rng.choice(
                (
                    f"Goes well with {needed}.",
                    f"Add {needed} and you are ready.",
                    f"Most people buy {needed} next.",
                )
            )
        )
    if rng.random() < 0.4:
        more.append(f"{brand} makes {kind.plural} for {people} with care.")
    rng.shuffle(more)
    return " ".join([rng.choice(openings), *more])


def _soil(rng: Random, record: dict[str, Any], dirt: str) -> None:
    """Put one sort of dirt into the record, in place."""
    match dirt:
        case "title with HTML entities":
            record["title"] = html.escape(f'{record["title"]} - "Best & Better"')
        case "title with an emoji":
            record["title"] = f"{rng.choice(EMOJI)} {record['title']}"
        case "description with HTML tags":
            first, *rest = record["description"]
            record["description"] = [f"<p><b>New!</b> {first}<br/></p>", *rest]
        case "description that writes model markers":
            record["description"].append(f"Buy this one {rng.choice(MARKERS)} now.")
        case "no description":
            record["description"], record["features"] = [], []
        case "no price" | "no store":
            record[dirt.removeprefix("no ")] = None
        case "no categories":
            record["categories"], record["main_category"] = [], None
        case _:
            raise ValueError(f"unknown sort of dirt {dirt!r}")
