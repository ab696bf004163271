"""How a reasoning ended, in words for people."""

ENDINGS = {
    "marker": "ended at the answer marker",
    "eos": "ended with the text",
    "length": "cut off at its length",
}


def told_ending(finish_reason: str | None, tokens: int | None, status: str) -> str:
    """What became of a user's reasoning; the arguments are columns of the table `reasoning`."""
    if status == "error":
        return "could not be scored"
    ending = ENDINGS.get(finish_reason or "", "no reasoning written")
    told = ending if tokens is None else f"{ending}, {tokens} tokens"
    return f"{told}, carried over from an earlier date" if status == "carried" else told
