"""Writing ``policy.toml``; reading it is ``tomllib``'s."""

from __future__ import annotations


def toml(values: dict) -> str:
    """TOML of nested dicts: scalars first, a dict is a table, a list of dicts an array of tables."""
    lines = [f"{key} = {_value(value)}" for key, value in values.items() if not isinstance(value, (dict, list))]
    for name, table in values.items():
        for one in table if isinstance(table, list) else [table] if isinstance(table, dict) else []:
            lines += ["", f"[[{name}]]" if isinstance(table, list) else f"[{name}]"]
            lines += [f"{_value(key) if name == 'files' else key} = {_value(value)}" for key, value in one.items()]
    return "\n".join(lines) + "\n"


def _value(value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(one)}" for key, one in value.items()) + " }"
    if isinstance(value, float):
        text = repr(value)
        return text if any(c in text for c in ".en") else text + ".0"
    return str(int(value))
