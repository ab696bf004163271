"""What a training run tells: a JSON line a step, TensorBoard curves, log lines, samples."""

import json
from pathlib import Path
from typing import Any

from r2ec.logs import get_logger

_LOG = get_logger(__name__)


class Journal:
    """Written by the first rank alone; the others hold one that writes nothing."""

    def __init__(self, folder: Path, *, active: bool) -> None:
        self._lines = folder / "metrics.jsonl"
        self._active = active
        self._writer: Any = None
        if active:
            from torch.utils.tensorboard import SummaryWriter

            folder.mkdir(parents=True, exist_ok=True)
            self._writer = SummaryWriter(log_dir=str(folder / "tensorboard"))

    def rewind(self, stage: str, step: int) -> None:
        """Drop a stage's lines after this step, so that a resumed run tells each step once."""
        if not self._active or not self._lines.exists():
            return
        lines = _whole_lines(self._lines.read_text("utf-8"))
        kept = [line for line in lines if line["stage"] != stage or line["step"] <= step]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept)
        staging = self._lines.with_suffix(".writing")
        staging.write_text(text, encoding="utf-8")
        staging.replace(self._lines)

    def log_step(self, stage: str, step: int, figures: dict[str, float | None]) -> None:
        """One step's figures: a JSON line, a point on each curve."""
        if not self._active:
            return
        with self._lines.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"stage": stage, "step": step} | figures) + "\n")
        for name, value in figures.items():
            if value is not None:
                self._writer.add_scalar(f"{stage}/{name}", value, step)

    def log_text(self, stage: str, step: int, name: str, text: str) -> None:
        """A sampled reasoning or the like, for people."""
        if self._active:
            self._writer.add_text(f"{stage}/{name}", text, step)
            _LOG.info("%s step %d %s: %s", stage, step, name, text)

    def close(self) -> None:
        """Flush the curves."""
        if self._writer is not None:
            self._writer.close()


def _whole_lines(text: str) -> list[dict[str, Any]]:
    """All lines but a last one that a killed process did not write to its end."""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
