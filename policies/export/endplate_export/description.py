"""Writing ``policy.toml`` and its digests."""

from __future__ import annotations

import hashlib
from pathlib import Path


def dumps(values: dict) -> str:
    """TOML of nested dicts: scalars first, a dict is a table, a list of dicts an array of tables."""
    lines = [f"{key} = {_value(value)}" for key, value in values.items() if not _is_table(value)]
    for name, table in values.items():
        if _is_table(table):
            for one in table if isinstance(table, list) else [table]:
                lines += ["", f"[[{name}]]" if isinstance(table, list) else f"[{name}]"]
                lines += [f"{_value(key) if name == 'files' else key} = {_value(value)}" for key, value in one.items()]
    return "\n".join(lines) + "\n"


def _is_table(value) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


def _value(value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(one)}" for key, one in value.items()) + " }"
    if isinstance(value, float):
        text = repr(value)
        return text if any(c in text for c in ".en") else text + ".0"
    return str(int(value))


def digest(path: Path) -> str:
    """SHA-256 of a file, lower-case hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def seal(folder: Path) -> dict[str, str]:
    """Makes every file of a bundle readable for everybody and returns their digests, without ``policy.toml``'s."""
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)  # safetensors writes files for their owner alone
    return {p.relative_to(folder).as_posix(): digest(p) for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "policy.toml"}
