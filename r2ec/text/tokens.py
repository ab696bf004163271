"""Prompts to token ids: chat template, answer marker, bounds on length.

The marker is plain text (`<answer>` by default), no new vocabulary entry: the paper measured a
special token as worse.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from r2ec.catalog import Catalog, CatalogItem
from r2ec.errors import NotReadyError, UsageError
from r2ec.tables import History
from r2ec.text.prompts import PromptTemplate, item_prompt, user_prompt

# Some chat templates tell the model today's date by this function.
_TODAY = "strftime_now"
_SOME_DAY = {"%d": "26", "%m": "07", "%b": "Jul", "%B": "July", "%Y": "2024", "%H": "12"}


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptEncoder:
    """Turns histories and items into ids for one tokenizer and one template.

    `marker_ids` are the ids forced when the policy did not write the marker; `stop_ids` end a
    reasoning; `closing_ids` are the tokens whose text holds the marker's last character, the only
    ones after which the marker can be complete. `positions` is how many tokens the model can hold
    in a row, None where nothing is said of it.
    """

    tokenizer: PreTrainedTokenizerBase
    template: PromptTemplate
    max_prompt_tokens: int
    marker_ids: tuple[int, ...]
    stop_ids: frozenset[int]
    closing_ids: frozenset[int]
    positions: int | None = None

    def user_ids(self, history: History, catalog: Catalog, *, new_tokens: int = 0) -> list[int]:
        """Ids of a user's prompt, ready for a reasoning of at most `new_tokens`.

        Oldest items are left out until the prompt fits `max_prompt_tokens`, and the model's
        positions hold it together with the reasoning and the marker.
        Raises `UsageError` if not even one item fits, `NotReadyError` if an item is not in the
        catalog.
        """
        return self.user_ids_from_items(history, _items(history, catalog), new_tokens=new_tokens)

    def user_ids_from_items(
        self, history: History, items: Sequence[CatalogItem], *, new_tokens: int = 0
    ) -> list[int]:
        """As `user_ids`, with the items' texts given.

        Raises `UsageError` where one item alone makes a prompt that is too long.
        """
        room = self._room(new_tokens)
        length = min(len(items), self.template.history_items)
        while True:
            part = _last(history, length)
            ids = self._chat(user_prompt(self.template, part, items[len(items) - length :]))
            if len(ids) <= room:
                return ids
            if length <= 1:
                raise UsageError(
                    f"user {history.user_id!r}: one item alone makes a prompt of {len(ids)} tokens,"
                    f" more than {self._told_room(room, new_tokens)}"
                )
            length = max(1, min(length - 1, length * room // len(ids)))

    def item_ids(self, item: CatalogItem) -> list[int]:
        """Ids of an item's prompt, the answer marker included.

        An item whose text is too long loses its end, never the marker.
        """
        room = min(self.max_prompt_tokens - len(self.marker_ids), self._room(0))
        text = item_prompt(self.template, item)
        ids = self._chat(text)
        while len(ids) > room and text:
            text = text[: len(text) * room // len(ids) - 1]
            ids = self._chat(text)
        return ids + list(self.marker_ids)

    def reasoning_text(self, sampled_ids: Sequence[int], finish_reason: str) -> str:
        """The reasoning as people read it: up to the marker, without special tokens.

        A marker that the token budget cut short (`finish_reason` `length`) is left out too.
        """
        text = str(self.tokenizer.decode(list(sampled_ids), skip_special_tokens=True))
        text, separator, _ = text.partition(self.template.marker)
        if finish_reason == "length" and not separator:
            text = without_cut_marker(text, self.template.marker)
        return text.strip()

    def closes_marker(self, sampled_ids: Sequence[int]) -> bool:
        """Whether the last sampled token completes the marker, however it was split."""
        if not sampled_ids or sampled_ids[-1] not in self.closing_ids:
            return False
        # Each character is at least a part of a token, so a marker of m characters and the token
        # that ends it lie within the last m tokens.
        tail = list(sampled_ids[-len(self.template.marker) :])
        return self.template.marker in self.tokenizer.decode(tail, skip_special_tokens=False)

    def _room(self, new_tokens: int) -> int:
        """Most tokens of a prompt that a reasoning of `new_tokens` and the marker follow."""
        if self.positions is None:
            return self.max_prompt_tokens
        left = self.positions - new_tokens - len(self.marker_ids)
        return min(self.max_prompt_tokens, left)

    def _told_room(self, room: int, new_tokens: int) -> str:
        if room == self.max_prompt_tokens:
            setting = f"prompt.max_prompt_tokens = {room}"
            return f"{setting}; raise it or lower prompt.title_chars"
        return (
            f"the {max(room, 0)} that a reasoning of {new_tokens} leaves of the model's"
            f" {self.positions} positions; give it fewer tokens or lower prompt.title_chars"
        )

    def _chat(self, content: str) -> list[int]:
        if self.tokenizer.chat_template:
            text = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": content}],
                add_generation_prompt=True,
                tokenize=False,
                chat_template=_undated(self.tokenizer.get_chat_template()),
            )
        else:
            text = f"{self.tokenizer.bos_token or ''}{content}\n\n"
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def build_encoder(
    tokenizer: PreTrainedTokenizerBase,
    *,
    marker: str,
    history_items: int,
    title_chars: int,
    description_chars: int,
    max_prompt_tokens: int,
    stop_ids: Sequence[int] = (),
    positions: int | None = None,
) -> PromptEncoder:
    """Encoder for a tokenizer; `stop_ids` adds to its end-of-sequence and end-of-turn tokens.

    Raises `UsageError` if the tokenizer has no end-of-sequence token or cannot spell the marker.
    """
    special = {token for token in tokenizer.all_special_tokens if token}
    special |= {str(token) for token in tokenizer.get_added_vocab()}
    special -= {token for token in special if not token.strip()}
    marker_ids = tuple(tokenizer(marker, add_special_tokens=False)["input_ids"])
    if marker not in tokenizer.decode(list(marker_ids), skip_special_tokens=False):
        raise UsageError(f"the tokenizer cannot write the marker {marker!r}; choose plain ASCII")
    if tokenizer.eos_token_id is None:
        raise UsageError(
            f"the tokenizer of {tokenizer.name_or_path or 'this model'} has no eos_token; set one"
            " in its tokenizer_config.json"
        )
    ends = {tokenizer.eos_token_id, *stop_ids}
    vocabulary = range(len(tokenizer))
    texts = tokenizer.batch_decode([[token] for token in vocabulary], skip_special_tokens=False)
    closing = frozenset(
        token for token, text in zip(vocabulary, texts, strict=True) if marker[-1] in text
    )
    return PromptEncoder(
        tokenizer=tokenizer,
        template=PromptTemplate(
            marker=marker,
            forbidden=(marker, *sorted(special, key=len, reverse=True)),
            history_items=history_items,
            title_chars=title_chars,
            description_chars=description_chars,
        ),
        max_prompt_tokens=max_prompt_tokens,
        marker_ids=marker_ids,
        stop_ids=frozenset(ends),
        closing_ids=closing,
        positions=positions,
    )


def without_cut_marker(text: str, marker: str) -> str:
    """The text without the longest beginning of the marker that stands at its very end."""
    for length in range(len(marker) - 1, 0, -1):
        if text.endswith(marker[:length]):
            return text[:-length]
    return text


def _undated(chat_template: str) -> str:
    """The template with one day for today: a prompt must not change from day to day."""
    if _TODAY not in chat_template:
        return chat_template
    filters = "".join(f"|replace('{code}', '{text}')" for code, text in _SOME_DAY.items())
    day = f"{{%- macro {_TODAY}(format) -%}}{{{{ format{filters} }}}}{{%- endmacro -%}}"
    return f"{day}{chat_template}"


def pad_right(rows: Sequence[Sequence[int]], fill: int) -> tuple[list[list[int]], list[list[int]]]:
    """Rows to one length: ids filled at the right, and a mask of ones where a token stands."""
    length = max(len(row) for row in rows)
    ids = [[*row, *[fill] * (length - len(row))] for row in rows]
    mask = [[1] * len(row) + [0] * (length - len(row)) for row in rows]
    return ids, mask


def pad_left(rows: Sequence[Sequence[int]], fill: int) -> tuple[list[list[int]], list[list[int]]]:
    """Rows to one length: ids filled at the left, and a mask of ones where a token stands."""
    length = max(len(row) for row in rows)
    ids = [[*[fill] * (length - len(row)), *row] for row in rows]
    mask = [[0] * (length - len(row)) + [1] * len(row) for row in rows]
    return ids, mask


def _items(history: History, catalog: Catalog) -> list[CatalogItem]:
    highest = max(history.item_index, default=-1)
    if highest >= catalog.num_items or min(history.item_index, default=0) < 0:
        raise NotReadyError(
            f"user {history.user_id!r} has item_index {highest}, but catalog version"
            f" {catalog.version} holds {catalog.num_items} items; build the catalog first"
        )
    return [catalog.items[index] for index in history.item_index]


def _last(history: History, length: int) -> History:
    start = len(history.item_index) - length
    return replace(
        history,
        item_index=history.item_index[start:],
        rating=history.rating[start:],
        time=history.time[start:],
    )
