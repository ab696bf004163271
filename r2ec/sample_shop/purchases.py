"""Who buys what and when: the process behind the sample shop's log, a chunk of users at a time.

A purchase is, by chance, a follow-up of one of the user's last three (a printer, then ink of its
brand), something of the user's own theme and departments, or anything that is popular just then.
Each chunk has its own generator, so a log of any size needs the memory of one chunk.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from r2ec.sample_shop.goods import KINDS, THEMES
from r2ec.sample_shop.items import Items

EVENTS_PER_USER = 8
MIN_EVENTS_PER_USER = 3
USERS_PER_CHUNK = 8192

FOLLOW_UP_SHARE = 0.42  # where one of the last three purchases has follow-ups
TASTE_SHARE = 0.22
REACH_WEIGHTS = (0.6, 0.25, 0.15)  # which of the last three is followed up, latest first
BASKET_SHARE = 0.05  # bought in the same moment as the purchase before
SECOND_THEME_SHARE = 0.3
MEDIAN_GAP_DAYS = 9.0
FIRST_DAY_MS = 1_609_459_200_000  # 2021-01-01
DAY_MS = 86_400_000
SPAN_DAYS = 1_095.0
TREND = 0.45  # how much the chance of a rising kind grows over the span
TRIES = 4

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class Purchases:
    """One entry a purchase, by user and then by time; `E` purchases."""

    user_E: Ints
    item_E: Ints
    rating_E: Ints
    time_ms_E: Ints


class Shelf:
    """Items sorted into groups, to be drawn by weight within a group."""

    def __init__(self, group_I: Ints, num_groups: int, weight_I: Floats) -> None:
        self.order = np.argsort(group_I, kind="stable")
        sizes = np.bincount(group_I, minlength=num_groups)
        self.starts = np.concatenate([[0], np.cumsum(sizes)])
        self.weights = np.concatenate([[0.0], np.cumsum(weight_I[self.order])])

    def draw(self, group_N: Ints, chance_N: Floats) -> Ints:
        """One item per group, `chance_N` in [0, 1); -1 where a group is empty."""
        first, last = self.starts[group_N], self.starts[group_N + 1]
        low, high = self.weights[first], self.weights[last]
        place = np.searchsorted(self.weights, low + chance_N * (high - low), side="right") - 1
        item = self.order[np.clip(place, first, np.maximum(last - 1, first)) % len(self.order)]
        return np.where(last > first, item, -1)


class Buyers:
    """Draws the purchases of a chunk of users; built once for a shop."""

    def __init__(self, items: Items, seed: int) -> None:
        self.items, self.seed = items, seed
        numbers = {kind.name: i for i, kind in enumerate(KINDS)}
        most = max(len(kind.follow_ups) for kind in KINDS)
        self.num_follow_ups = np.array([len(kind.follow_ups) for kind in KINDS])
        self.follow_ups = np.zeros((len(KINDS), most), dtype=np.int64)
        for i, kind in enumerate(KINDS):
            for j, name in enumerate(kind.follow_ups):
                self.follow_ups[i, j] = numbers[name]
        self.num_brands = items.num_departments * items.brands_per_department
        self.kind_trend = np.random.default_rng([seed, 1]).integers(-1, 2, size=len(KINDS))
        flat = np.sqrt(items.popularity_I)
        num_kind_brands = len(KINDS) * self.num_brands
        self.by_kind_brand = Shelf(
            items.kind_I * self.num_brands + items.brand_I, num_kind_brands, flat
        )
        num_tastes = items.num_departments * len(THEMES)
        self.by_taste = Shelf(items.department_I * len(THEMES) + items.theme_I, num_tastes, flat)
        self.everything = Shelf(np.zeros_like(items.kind_I), 1, items.popularity_I)
        evergreen = np.where(items.release_I == 0.0, items.popularity_I, 0.0)
        self.evergreens = Shelf(np.zeros_like(items.kind_I), 1, evergreen)

    def buy(self, chunk: int, num_users: int, num_events: int) -> Purchases:
        """The purchases of chunk number `chunk`: `num_events` by `num_users` users."""
        rng = np.random.default_rng([self.seed, 2, chunk])
        lengths_U = _draw_lengths(rng, num_users, num_events)
        longest = int(lengths_U.max())
        time_UL = _draw_times(rng, lengths_U, longest)
        themes_U2 = rng.integers(len(THEMES), size=(num_users, 2))
        departments_U2 = rng.integers(self.items.num_departments, size=(num_users, 2))
        item_UL = np.full((num_users, longest), -1, dtype=np.int64)
        for step in range(longest):
            users = np.flatnonzero(lengths_U > step)
            share_N = (time_UL[users, step] - FIRST_DAY_MS) / (SPAN_DAYS * DAY_MS)
            item_UL[users, step] = self._choose(
                rng, item_UL[users, :step], themes_U2[users], departments_U2[users], share_N
            )
        bought_UL = np.arange(longest) < lengths_U[:, None]
        user_E = np.repeat(np.arange(num_users), lengths_U)
        item_E = item_UL[bought_UL]
        return Purchases(
            user_E=user_E + chunk * USERS_PER_CHUNK,
            item_E=item_E,
            rating_E=_draw_ratings(rng, user_E, item_E, num_users, len(self.items)),
            time_ms_E=time_UL[bought_UL],
        )

    def _choose(
        self, rng: np.random.Generator, past_NL: Ints, themes_N2: Ints, departments_N2: Ints,
        share_N: Floats,
    ) -> Ints:  # fmt: skip
        """The next item of each user; what is not sold yet or was bought before is drawn anew."""
        num = len(past_NL)
        branch_N = rng.random(num)
        chosen_N = np.full(num, -1, dtype=np.int64)
        for _ in range(TRIES):
            open_N = chosen_N < 0
            if not open_N.any():
                break
            item_N = np.full(num, -1, dtype=np.int64)
            follows_N = self._draw_follow_up(rng, past_NL)
            wants_follow_up_N = branch_N < FOLLOW_UP_SHARE
            item_N[wants_follow_up_N] = follows_N[wants_follow_up_N]
            wants_taste_N = ~wants_follow_up_N & (branch_N < FOLLOW_UP_SHARE + TASTE_SHARE)
            taste_N = self._draw_taste(rng, themes_N2, departments_N2)
            item_N[wants_taste_N] = taste_N[wants_taste_N]
            popular_N = self._draw_popular(rng, share_N)
            item_N = np.where(item_N < 0, popular_N, item_N)
            sold_N = self.items.release_I[item_N] <= share_N
            new_N = ~(past_NL == item_N[:, None]).any(axis=1)
            chosen_N = np.where(open_N & sold_N & new_N, item_N, chosen_N)
        last_resort_N = self.evergreens.draw(np.zeros(num, dtype=np.int64), rng.random(num))
        return np.where(chosen_N < 0, last_resort_N, chosen_N)

    def _draw_follow_up(self, rng: np.random.Generator, past_NL: Ints) -> Ints:
        num, length = past_NL.shape
        chance_N, which_N, weight_N = rng.random((3, num))
        if length == 0:
            return np.full(num, -1, dtype=np.int64)
        reach_N = np.searchsorted(np.cumsum(REACH_WEIGHTS), chance_N)
        source_N = past_NL[np.arange(num), length - 1 - np.minimum(reach_N, length - 1)]
        kind_N, brand_N = self.items.kind_I[source_N], self.items.brand_I[source_N]
        slot_N = (which_N * self.num_follow_ups[kind_N]).astype(np.int64)
        group_N = self.follow_ups[kind_N, slot_N] * self.num_brands + brand_N
        item_N = self.by_kind_brand.draw(group_N, weight_N)
        return np.where(self.num_follow_ups[kind_N] > 0, item_N, -1)

    def _draw_taste(self, rng: np.random.Generator, themes_N2: Ints, departments_N2: Ints) -> Ints:
        num = len(themes_N2)
        theme_N, department_N, weight_N = rng.random((3, num))
        rows = np.arange(num)
        theme = themes_N2[rows, (theme_N < SECOND_THEME_SHARE).astype(np.int64)]
        department = departments_N2[rows, (department_N < 0.5).astype(np.int64)]
        return self.by_taste.draw(department * len(THEMES) + theme, weight_N)

    def _draw_popular(self, rng: np.random.Generator, share_N: Floats) -> Ints:
        """By popularity; a rising kind is taken more often late, a falling one early."""
        item_N = np.zeros(len(share_N), dtype=np.int64)
        open_N = np.ones(len(share_N), dtype=np.bool_)
        for _ in range(TRIES):
            weight_N, accept_N = rng.random((2, len(share_N)))
            drawn_N = self.everything.draw(np.zeros_like(item_N), weight_N)
            item_N = np.where(open_N, drawn_N, item_N)
            trend_N = self.kind_trend[self.items.kind_I[drawn_N]]
            open_N &= accept_N >= 0.55 + TREND * trend_N * (2 * share_N - 1)
        return item_N


def _draw_lengths(rng: np.random.Generator, num_users: int, num_events: int) -> Ints:
    """How many purchases each user makes: skewed, at least three where the sum allows it."""
    least = min(MIN_EVENTS_PER_USER, num_events // num_users)
    keenness_U = rng.exponential(size=num_users)
    extra_U = rng.multinomial(num_events - least * num_users, keenness_U / keenness_U.sum())
    return np.asarray(extra_U + least, dtype=np.int64)


def _draw_times(rng: np.random.Generator, lengths_U: Ints, longest: int) -> Ints:
    """Purchase times in ms since 1970, rising along each row; more users start late than early."""
    num_users = len(lengths_U)
    gap_UL = rng.lognormal(np.log(MEDIAN_GAP_DAYS), 1.0, (num_users, longest))
    gap_UL[rng.random((num_users, longest)) < BASKET_SHARE] = 0.0
    gap_UL[:, 0] = 0.0
    offset_UL = np.cumsum(gap_UL, axis=1)
    total_U = offset_UL[np.arange(num_users), lengths_U - 1]
    squeeze_U = np.minimum(1.0, 0.95 * SPAN_DAYS / np.maximum(total_U, 1e-9))
    room_U = SPAN_DAYS - total_U * squeeze_U
    start_U = room_U * rng.random(num_users) ** 0.7
    days_UL = start_U[:, None] + offset_UL * squeeze_U[:, None]
    return (FIRST_DAY_MS + days_UL * DAY_MS).astype(np.int64)


def _draw_ratings(
    rng: np.random.Generator, user_E: Ints, item_E: Ints, num_users: int, num_items: int
) -> Ints:
    """Whole stars from 1 to 5: the user's mood, the item's quality, and chance."""
    mood_U = rng.normal(0.0, 0.4, num_users)
    quality = ((item_E * 2_654_435_761) % 1000) / 1000 - 0.5
    stars_E = 4.4 + mood_U[user_E] + quality + rng.normal(0.0, 0.8, len(item_E))
    return np.asarray(np.clip(np.rint(stars_E), 1, 5), dtype=np.int64)
