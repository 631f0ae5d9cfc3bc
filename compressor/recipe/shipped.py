"""The recipes that come with compress, and the file that a name means."""

from __future__ import annotations

from pathlib import Path

from compressor.errors import RequestError
from compressor.recipe.suggestion import suggestion

CHECKOUT = Path(__file__).parents[2] / "recipes"
INSTALLED = Path(__file__).parents[1] / "recipes"  # where a wheel carries them


def find(name: str) -> Path:
    """A file as it is named, or one of ours by its stem. Raises: RequestError, with the nearest of ours."""
    path, known = Path(name), {one.stem: one for one in ours()}
    if path.exists():
        return path
    if name in known:
        return known[name]
    hint = suggestion(path.stem, list(known), f"Ours are {', '.join(known)}")
    raise RequestError(f"{name}: no such recipe. {hint}")


def ours() -> list[Path]:
    return sorted((INSTALLED if INSTALLED.is_dir() else CHECKOUT).glob("*.yaml"))


def purpose(path: Path) -> str:
    """The first line of a recipe, which says for whom it is."""
    return path.read_text(encoding="utf-8").splitlines()[0].removeprefix("#").strip()
