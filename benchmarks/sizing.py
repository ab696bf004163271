"""Hours and cost of a night for so many users, computed from rates that were measured.

Nothing runs here: the rates are those of docs/LOG.md, and each may be replaced by one of your own
(`--users-per-second` above all, for it is the model that takes the time). The last line of output
is one JSON object.
"""

import argparse
import json
from dataclasses import asdict, dataclass, fields

HOUR = 3600.0
EVENTS_OF_A_USER = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """What was measured, of one device where nothing else is said.

    `build_fixed` and `build_per_event` are core-seconds of the Spark jobs; `write_per_user` those
    of a shard's writer; `publish_per_user` seconds of the one process that publishes.
    """

    # Two points on two cores, build and audits: 16.1 + 4.4 s of 10^6 events, 49.6 + 18.0 s of 10^7.
    build_per_event: float = 2 * ((49.6 + 18.0) - (16.1 + 4.4)) / 9e6
    build_fixed: float = 2 * (16.1 + 4.4) - 2 * ((49.6 + 18.0) - (16.1 + 4.4)) / 9
    users_per_second: float = 8.05
    # A catalog of 10^6 items by 256: 684 users a second on two threads.
    rank_per_user: float = 2 / 684
    write_per_user: float = 23.0 / 1e6
    publish_per_user: float = 15.2 / 1e6


@dataclass(frozen=True, kw_only=True, slots=True)
class Night:
    """What a night takes: core-hours of the Spark jobs, device-hours of scoring, and the rest."""

    users: int
    devices: int
    build_hours: float
    score_hours: float
    publish_hours: float
    wall_hours: float
    cost: float


def night(rates: Rates, users: int, devices: int, changed: float, price: float) -> Night:
    """A night of `users`, of whom the share `changed` is scored anew, on so many devices.

    The devices are cores that Spark uses first and scoring afterwards, side by side; publishing is
    one process. `price` is that of a device for an hour.
    """
    build = (rates.build_fixed + rates.build_per_event * EVENTS_OF_A_USER * users) / HOUR
    per_user = 1 / rates.users_per_second + rates.rank_per_user
    score = (users * changed * per_user + users * rates.write_per_user) / HOUR
    publish = users * rates.publish_per_user / HOUR
    return Night(
        users=users,
        devices=devices,
        build_hours=build,
        score_hours=score,
        publish_hours=publish,
        wall_hours=(build + score) / devices + publish,
        cost=price * (build + score + publish),
    )


def table(nights: list[Night]) -> str:
    """The nights as a table of a Markdown page."""
    names = "users | events | cores | Spark, core-hours | scoring, core-hours | publishing, hours"
    lines = [f"| {names} | whole night, hours | cost |", "|---" * 8 + "|"]
    for one in nights:
        events = EVENTS_OF_A_USER * one.users
        lines.append(
            f"| {_told(one.users)} | {_told(events)} | {one.devices:,} | {one.build_hours:.2f} |"
            f" {one.score_hours:,.0f} | {one.publish_hours:.3f} | {one.wall_hours:.1f} |"
            f" {one.cost:,.2f} |"
        )
    return "\n".join(lines)


def _told(number: int) -> str:
    """1000000 as 10^6, 500000 as 500,000."""
    power = len(str(number)) - 1
    return f"10^{power}" if number == 10**power else f"{number:,}"


def main() -> None:
    """Print the table and, last, its figures as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--users", type=int, nargs="+", default=[10**6, 10**7, 10**8])
    parser.add_argument("--devices", type=int, nargs="+", default=[16, 128, 1024])
    parser.add_argument("--users-per-second", type=float, default=Rates().users_per_second)
    parser.add_argument("--changed-share", type=float, default=1.0)
    parser.add_argument("--price-per-hour", type=float, default=0.05)
    arguments = parser.parse_args()
    if len(arguments.users) != len(arguments.devices):
        parser.error("--devices: give as many as --users")
    known = {field.name: getattr(Rates(), field.name) for field in fields(Rates)}
    rates = Rates(**{**known, "users_per_second": arguments.users_per_second})
    nights = [
        night(rates, users, devices, arguments.changed_share, arguments.price_per_hour)
        for users, devices in zip(arguments.users, arguments.devices, strict=True)
    ]
    print(table(nights))
    print(json.dumps({"bench": "sizing", "rates": asdict(rates), "nights": [*map(asdict, nights)]}))


if __name__ == "__main__":
    main()
