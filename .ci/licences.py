#!/usr/bin/env python3
"""Refuses a dependency whose licence is not on the list of deny.toml, or that does not come from crates.io.

Reads `cargo metadata`; an SPDX expression passes when one of its OR-alternatives consists of allowed licences only.
Known advisories need a database that lives outside the crate registry: `cargo deny check advisories` where there is one.
"""
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def rules() -> tuple[set[str], dict[str, set[str]]]:
    """Allowed licences, and exceptions by package name."""
    text = (ROOT / "deny.toml").read_text()
    block = re.search(r"^allow = \[(.*?)\]", text, re.S | re.M).group(1)
    exceptions = re.findall(r'name = "([^"]+)", allow = \[([^\]]*)\]', text)
    strings = lambda list_: set(re.findall(r'"([^"]+)"', list_))
    return strings(block), {name: strings(licences) for name, licences in exceptions}


def is_allowed(expression: str, allowed: set[str]) -> bool:
    tokens = re.findall(r"\(|\)|[^\s()]+", expression.replace("/", " OR "))
    position = 0

    def alternatives() -> bool:
        nonlocal position
        result = conjunction()
        while position < len(tokens) and tokens[position] == "OR":
            position += 1
            result = conjunction() or result
        return result

    def conjunction() -> bool:
        nonlocal position
        result = licence()
        while position < len(tokens) and tokens[position] == "AND":
            position += 1
            result = licence() and result
        return result

    def licence() -> bool:
        nonlocal position
        if tokens[position] == "(":
            position += 1
            result = alternatives()
            position += 1
            return result
        name = tokens[position]
        position += 1
        if position < len(tokens) and tokens[position] == "WITH":
            name = f"{name} WITH {tokens[position + 1]}"
            position += 2
        return name in allowed

    return alternatives()


def main() -> int:
    # Optional features too: without this cargo leaves out what only they bring.
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--all-features"]
    metadata = json.loads(subprocess.check_output(command, cwd=ROOT))
    allowed, exceptions = rules()
    refused = []
    for package in metadata["packages"]:
        if package["source"] is None:
            continue
        name = f"{package['name']} {package['version']}"
        if not package["source"].startswith("registry+"):
            refused.append(f"{name}: comes from {package['source']}")
        elif not package["license"]:
            refused.append(f"{name}: declares no licence")
        elif not is_allowed(package["license"], allowed | exceptions.get(package["name"], set())):
            refused.append(f"{name}: {package['license']}")
    print("\n".join(refused) or f"{len(metadata['packages'])} packages: every licence is allowed")
    return bool(refused)


if __name__ == "__main__":
    sys.exit(main())
