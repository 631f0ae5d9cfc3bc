"""A `.pt2` file is looked through before torch opens it: torch.export.load unpickles, and evaluates text.

    refused   a pickle that holds more than tensors, a pickled constant, a symbolic expression that is no arithmetic

Source: torch 2.13, torch/export/pt2_archive/_package.py (weights_only=False) and torch/_export/serde/serialize.py
(sympy.sympify of `expr_str`).
"""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from compressor.errors import RequestError

ARITHMETIC = (ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.keyword, ast.BinOp, ast.UnaryOp,
              ast.operator, ast.unaryop, ast.Compare, ast.cmpop)  # fmt: skip
KNOWN_NAME = re.compile(r"[A-Z]\w*|[su]\d+")  # sympy's classes and torch's symbols; no builtin begins like this
OBJECTS = ("custom_obj", "opaque_obj")


def refuse_code(path: Path) -> None:
    """Raises: RequestError when opening the file would run what somebody wrote into it."""
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                fault = _fault(name, archive.read(name))
                if fault:
                    raise RequestError(f"{path}: {name} {fault}; refused. Save the program again from its own code")
    except (zipfile.BadZipFile, OSError) as error:
        raise RequestError(f"{path}: not a whole .pt2 file ({error}); save it with torch.export.save") from None


def _fault(name: str, content: bytes) -> str:
    if name.endswith(".pt") and content:
        try:
            torch.load(io.BytesIO(content), weights_only=True)
        except Exception:  # whatever its bytes made of the unpickler
            return "is a pickle of more than tensors"
    if name.endswith(".json"):
        try:
            return next((fault for key, value in _entries(json.loads(content)) if (fault := _entry(key, value))), "")
        except (ValueError, RecursionError):
            return "is no JSON"
    return ""


def _entry(key: str, value: Any) -> str:
    if key == "use_pickle" and value:
        return "names a pickled tensor"
    if key == "path_name" and str(value).startswith(OBJECTS):
        return "names a pickled object"
    return "holds an expression that is no arithmetic" if key == "expr_str" and not _is_arithmetic(str(value)) else ""


def _is_arithmetic(text: str) -> bool:
    """`Add(Symbol('s0', positive=True), Integer(1))`: calls of sympy's classes on numbers and the names of symbols."""
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, RecursionError):
        return False
    return all(isinstance(node, ARITHMETIC) and _is_plain(node) for node in nodes)


def _is_plain(node: ast.AST) -> bool:
    if isinstance(node, ast.Name):
        return bool(KNOWN_NAME.fullmatch(node.id))
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return bool(KNOWN_NAME.fullmatch(node.value))  # sympy evaluates a text that it is given as an argument
    return True


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key of a JSON document with its value."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield key, one
            yield from _entries(one)
    elif isinstance(value, list):
        for one in value:
            yield from _entries(one)
