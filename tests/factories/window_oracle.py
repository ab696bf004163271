"""Histories and splits by brute force, in plain Python, from the definition alone."""

from collections import Counter, defaultdict
from fractions import Fraction


def clean_events(rows, micros_per_unit):
    """(user, item, rating, time) in the order of the log; exact duplicates gone."""
    typed = [(u, i, float(r), int(t) * micros_per_unit) for u, i, r, t in rows]
    return sorted(dict.fromkeys(typed), key=lambda event: event[3])  # stable: file order within


def core(events, k):
    """Drop users and items with fewer than k events until there are none."""
    while True:
        users, items = Counter(e[0] for e in events), Counter(e[1] for e in events)
        kept = [e for e in events if users[e[0]] >= k and items[e[1]] >= k]
        if len(kept) == len(events):
            return kept
        events = kept


def sequences(events, *, window, strict_time=False, ratio=("0.8", "0.1", "0.1")):
    """(user, history, target, split) of every event with a past, events as (item, rating, time)."""
    past, found = defaultdict(list), []
    for user, *event in events:
        before = past[user]
        if strict_time:
            before = [e for e in before if e[2] < event[2]]
        if before:
            found.append((user, tuple(before[-window:]), tuple(event)))
        past[user].append(tuple(event))
    times = sorted(target[2] for _, _, target in found)
    shares = [Fraction(ratio[0]), Fraction(ratio[0]) + Fraction(ratio[1])]
    train, valid = (times[-(-len(times) * share // 1) - 1] for share in shares)
    names = [(train, "train"), (valid, "valid"), (times[-1], "test")]
    return [(u, h, t, next(name for cut, name in names if t[2] <= cut)) for u, h, t in found]


def histories(events, *, window, end):
    """user -> the last events before `end`."""
    past = defaultdict(list)
    for user, *event in events:
        if event[2] < end:
            past[user].append(tuple(event))
    return {user: tuple(seen[-window:]) for user, seen in past.items()}
