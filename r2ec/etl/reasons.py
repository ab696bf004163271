"""Why rows are rejected, what to do about it, and the table that says so at the end of a job."""

from collections.abc import Mapping

# The reason of a rejected row -> what is wrong with it and where to look.
REMEDIES = {
    "bad_encoding": "not UTF-8; convert the file, or name its --encoding",
    "bad_quantity": "the quantity is no number; check --quantity-column",
    "bad_rating": "the rating is no number; check --rating-column",
    "bad_time": "the time cannot be read; check --time-column, --time-unit and --time-format",
    "broken_file": "the file cannot be read; fetch it again",
    "broken_row": "not of the file's format; check the format, --delimiter, --quote, and if "
    "quoted values hold line breaks --multi-line",
    "cancelled": "a cancelled purchase",
    "missing_item": "no item; check --item-column",
    "missing_time": "no time; check --time-column",
    "missing_user": "no user; check --user-column",
    "nul_byte": "a NUL byte in the user or the item",
    "rating_out_of_range": "the rating lies outside --min-rating and --max-rating",
    "robot": "the user has more events a day than --max-user-events-per-day",
    "time_in_future": "later than tomorrow, or than --max-time",
    "time_in_microseconds": "the times look like microseconds: give --time-unit us",
    "time_in_milliseconds": "the times look like milliseconds: give --time-unit ms",
    "time_in_seconds": "the times look like seconds: give --time-unit s",
    "time_out_of_range": "not between 1970 and 2100; check --time-unit",
    "unknown_item": "the catalog lacks the item; check --item-column or build the catalog with "
    "--unknown-items keep",
}
EXAMPLE_CHARS = 80


def reasons_table(num_by_reason: Mapping[str, int], examples: Mapping[str, str]) -> str:
    """A line per reason, most frequent first: reason, rows, what it means, one example."""
    pairs = sorted(num_by_reason.items(), key=lambda pair: (-pair[1], pair[0]))
    rows = [("reason", "rows", "meaning"), *((r, str(n), REMEDIES.get(r, "")) for r, n in pairs)]
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    lines = [f"{rows[0][0]:<{first}}  {rows[0][1]:>{second}}  {rows[0][2]}"]
    for reason, count, meaning in rows[1:]:
        lines.append(f"{reason:<{first}}  {count:>{second}}  {meaning}".rstrip())
        if reason in examples:
            lines.append(f"{'':<{first}}  {'':>{second}}  e.g. {example(examples[reason])}")
    return "\n".join(lines)


def example(line: str) -> str:
    """A row of the input for people: one line, nothing that a terminal would act on, cut."""
    shown = "".join(char if char.isprintable() else "\ufffd" for char in line)
    return shown if len(shown) <= EXAMPLE_CHARS else f"{shown[: EXAMPLE_CHARS - 1]}…"
