"""Several steps of decoding in one go, without waiting for the host between them.

The host has to look at each token: it may end a reasoning. On a GPU that look costs more than a
step of a small batch, so the device runs some steps ahead: each row is fed the tokens the host
has for it, then what it samples itself. Afterwards the host goes through the tokens in order and
takes back what was fed behind an end (a slot's length is lowered), so nothing but time is lost.
On CUDA a step is captured once as a graph for each shape and replayed.

Shapes: n rows, S steps, H hidden size, V vocabulary, K kept tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from r2ec.logs import get_logger
from r2ec.model.choice import ChosenTokens, SamplingSettings, choose_tokens
from r2ec.model.dual_head import DualHeadModel
from r2ec.model.slots import SlotCache

_LOG = get_logger(__name__)
# Graphs are captured for numbers of rows and places rounded up to these.
_ROW_STEP = 32
_PLACE_STEP = 256
_WARM_UPS = 3


@dataclass(frozen=True, slots=True)
class Steps:
    """What was fed, its hidden states, and the token sampled after it, for each step and row.

    A row that the host did not want a token of may hold any; hidden states stay on the device.
    """

    fed_Sn: list[list[int]]
    hidden_SnH: Tensor
    ids_Sn: list[list[int]]
    logprobs_Sn: list[list[float]]
    support_SnK: Tensor | None


class StepRunner:
    """Feeds the rows in the first slots of `slots`, one token a step."""

    def __init__(self, model: DualHeadModel, slots: SlotCache, settings: SamplingSettings) -> None:
        self._model, self._slots, self._settings = model, slots, settings
        self._graphs: dict[tuple[int, int], _GraphedStep] = {}
        self._captures = model.device.type == "cuda"

    def run(
        self, forced_nS: Tensor, uniforms_nS: Tensor, sampling: list[int] | None = None
    ) -> Steps:
        """Feed S tokens a row: `forced_nS` (int64) where it is not -1, else what was sampled.

        The first column is always forced. `uniforms_nS` (float64) decide the tokens. With one step,
        `sampling` may name the only rows of which a token is wanted.
        """
        device = self._model.device
        forced_nS, uniforms_nS = forced_nS.to(device), uniforms_nS.to(device)
        starts = self._slots.lengths
        positions_n = torch.tensor(starts, device=device)
        fed_n = forced_nS[:, 0]
        fed: list[Tensor] = []
        hidden: list[Tensor] = []
        chosen: list[ChosenTokens] = []
        for step in range(forced_nS.shape[1]):
            if step:
                fed_n = torch.where(forced_nS[:, step] < 0, chosen[-1].ids_N, forced_nS[:, step])
            fed.append(fed_n)
            states_nH, tokens = self._step(
                fed_n, positions_n + step, uniforms_nS[:, step], max(starts) + step + 1, sampling
            )
            hidden.append(states_nH)
            chosen.append(tokens)
        supports = [tokens.support_NK for tokens in chosen if tokens.support_NK is not None]
        return Steps(
            fed_Sn=torch.stack(fed).tolist(),
            hidden_SnH=torch.stack(hidden),
            ids_Sn=torch.stack([tokens.ids_N for tokens in chosen]).tolist(),
            logprobs_Sn=torch.stack([tokens.logprobs_N for tokens in chosen]).tolist(),
            support_SnK=torch.stack(supports).cpu() if supports else None,
        )

    def _step(
        self,
        ids_n: Tensor,
        positions_n: Tensor,
        uniforms_n: Tensor,
        longest: int,
        sampling: list[int] | None,
    ) -> tuple[Tensor, ChosenTokens]:
        if self._captures:
            graphed = self._graphed(len(ids_n), longest)
            if graphed is not None:
                return graphed.replay(ids_n, positions_n, uniforms_n)
        hidden_nH = self._model.decode(ids_n, positions_n, longest, self._slots)
        if sampling is None or len(sampling) == len(ids_n):
            return hidden_nH, self._choose(hidden_nH, uniforms_n)
        some = self._choose(hidden_nH[sampling], uniforms_n[sampling])
        return hidden_nH, _spread(some, sampling, len(ids_n))

    def _choose(self, hidden_nH: Tensor, uniforms_n: Tensor) -> ChosenTokens:
        return choose_tokens(self._model.logits(hidden_nH), uniforms_n, self._settings)

    def _graphed(self, rows: int, longest: int) -> "_GraphedStep | None":
        """The captured step for this shape; None from the first failure on, which is told once."""
        rows = min(-(-rows // _ROW_STEP) * _ROW_STEP, self._slots.num_slots)
        longest = min(-(-longest // _PLACE_STEP) * _PLACE_STEP, self._slots.num_places)
        if (rows, longest) not in self._graphs:
            try:
                self._graphs[rows, longest] = _GraphedStep(
                    self._model, self._slots, self._settings, rows, longest
                )
            except RuntimeError as error:
                _LOG.warning("decoding without CUDA graphs, which is slower: %s", error)
                self._captures = False
                return None
        return self._graphs[rows, longest]


class _GraphedStep:
    """One step of the first `rows` slots over `longest` places, as a CUDA graph.

    Rows behind those given run too, in slots that are free: what they leave is written over when
    the slot is taken.
    """

    def __init__(
        self,
        model: DualHeadModel,
        slots: SlotCache,
        settings: SamplingSettings,
        rows: int,
        longest: int,
    ) -> None:
        device = model.device
        self._ids_n = torch.zeros(rows, dtype=torch.long, device=device)
        # Captured at the last place: no row has come so far, so the warm-up overwrites nothing.
        self._positions_n = torch.full((rows,), longest - 1, dtype=torch.long, device=device)
        self._uniforms_n = torch.zeros(rows, dtype=torch.float64, device=device)
        self._graph = torch.cuda.CUDAGraph()

        def step() -> tuple[Tensor, ChosenTokens]:
            hidden_nH = model.decode(self._ids_n, self._positions_n, longest, slots)
            return hidden_nH, choose_tokens(model.logits(hidden_nH), self._uniforms_n, settings)

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                step()
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(self._graph):
            self._hidden_nH, self._chosen = step()

    def replay(
        self, ids_n: Tensor, positions_n: Tensor, uniforms_n: Tensor
    ) -> tuple[Tensor, ChosenTokens]:
        """As the step without a graph; results are copies, for the next replay writes over them."""
        rows = len(ids_n)
        self._ids_n[:rows] = ids_n
        self._positions_n[:rows] = positions_n
        self._positions_n[rows:] = 0
        self._uniforms_n[:rows] = uniforms_n
        self._graph.replay()
        chosen, support = self._chosen, self._chosen.support_NK
        return self._hidden_nH[:rows].clone(), ChosenTokens(
            chosen.ids_N[:rows].clone(),
            chosen.logprobs_N[:rows].clone(),
            None if support is None else support[:rows].clone(),
        )


def _spread(some: ChosenTokens, rows: list[int], count: int) -> ChosenTokens:
    """Tokens of some rows at their places among all; zeros elsewhere."""

    def place(values: Tensor) -> Tensor:
        whole = values.new_zeros(count, *values.shape[1:])
        whole[rows] = values
        return whole

    support = None if some.support_NK is None else place(some.support_NK)
    return ChosenTokens(place(some.ids_N), place(some.logprobs_N), support)
