"""Packs r2ec with its SQL and configs for `spark-submit --py-files`; same sources, same bytes."""

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Folder in the repository, folder in the package, pattern of the files taken.
PARTS = (
    ("r2ec", "r2ec", "*.py"),
    ("sql", "r2ec/sql", "*.sql"),
    ("configs", "r2ec/configs", "*.toml"),
)
FIXED_TIME = (1980, 1, 1, 0, 0, 0)


def build_zip(target: Path) -> int:
    """Write the archive to `target` and return how many files it holds."""
    members = sorted(
        (f"{folder}/{path.relative_to(ROOT / source).as_posix()}", path)
        for source, folder, pattern in PARTS
        for path in (ROOT / source).rglob(pattern)
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    with zipfile.ZipFile(partial, "w") as archive:
        for name, path in members:
            info = zipfile.ZipInfo(name, FIXED_TIME)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            archive.writestr(info, path.read_bytes())
    partial.replace(target)
    return len(members)


if __name__ == "__main__":
    destination = Path(sys.argv[1])
    print(f"{destination}: {build_zip(destination)} files")
