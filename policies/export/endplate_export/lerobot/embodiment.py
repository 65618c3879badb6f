"""What a checkpoint does not say and a robot has to know, from a TOML file.

```toml
robot = "so101"        # the robot description the policy is for
fps = 30.0             # rows a second, as the dataset was recorded

[[state]]              # one per dimension of observation.state, in its order
name = "shoulder_pan"
unit = "rad"           # rad or m; the joint's value is scale * (the dataset's number) + offset
scale = 0.017453292519943295
offset = 0.0

[[action]]             # one per dimension of action, in its order
name = "gripper"
kind = "gripper"       # joint_abs or gripper; or a component of the tool's pose:
unit = "rad"

[[action]]
name = "ee.x"          # the checkpoint's own name
kind = "ee_delta"      # ee_abs, ee_rel (to the pose observed) or ee_delta (to the row before)
component = "x"        # x y z (m), then roll pitch yaw (fixed axes) or wx wy wz (rotation vector) (rad)
frame = "base"         # whose axes a difference is said in: base or tool
unit = "m"
```

A ``[[state]]`` entry is a component of the tool's pose in the base frame when it has a ``component``.

Optional: ``observation_lag_s`` (0), ``max_skew_s`` (0.05), and per action ``interpolation`` (smooth) and ``blending``
(average; latch for a gripper).
"""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass
from pathlib import Path

from . import ExportError

FILE = "embodiment.toml"
#: Component of the tool's pose -> its unit.
COMPONENTS = {**dict.fromkeys(("x", "y", "z"), "m"), **dict.fromkeys(("roll", "pitch", "yaw", "wx", "wy", "wz"), "rad")}
#: Components that come together; a rotation has one of the last two forms, or is left out.
TRIPLES = (("x", "y", "z"), ("roll", "pitch", "yaw"), ("wx", "wy", "wz"))
POSES, DIFFERENCES = ("ee_abs", "ee_rel", "ee_delta"), ("ee_rel", "ee_delta")


@dataclass(frozen=True)
class Dim:
    """One dimension of a state or an action: ``scale * (the dataset's number) + offset`` is its value in ``unit``."""

    name: str
    unit: str
    scale: float
    offset: float
    kind: str = ""
    interpolation: str = ""
    blending: str = ""
    component: str = ""
    frame: str = ""

    def entry(self) -> dict[str, str]:
        """Its keys in ``policy.toml``, statistics apart."""
        keys = ("name", "kind", "unit", "component", "frame", "interpolation", "blending")
        return {key: getattr(self, key) for key in keys if getattr(self, key)}


@dataclass(frozen=True)
class Embodiment:
    robot: str
    fps: float
    observation_lag_s: float
    max_skew_s: float
    state: tuple[Dim, ...]
    action: tuple[Dim, ...]

    @property
    def row_period_s(self) -> float:
        return 1.0 / self.fps


def read(path: Path, states: int | None, actions: int | None, relative: bool = False) -> Embodiment:
    """Reads the file for a policy of so many dimensions; None takes any. ``relative``: an action may be one to the observed
    joint. Raises ExportError naming the key."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ExportError(
            path, "", "", f"missing; a checkpoint names no joints, units or rate: write them there ({states or 'some'} [[state]], {actions} [[action]]; "
            "its form is in the documentation) or name another file with --embodiment"
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise ExportError(path, "", "", f"is no TOML: {error}") from None
    known = {"robot", "fps", "observation_lag_s", "max_skew_s", "state", "action"}
    for key in values.keys() - known:
        raise ExportError(path, key, values[key], f"unknown key; use {', '.join(sorted(known))}")
    if not isinstance(values.get("robot"), str):
        raise ExportError(path, "robot", values.get("robot"), "write the name of the robot description")
    lists = []
    for name, needed in (("state", states), ("action", actions)):
        entries = values.get(name, [])
        if needed is None and not entries:
            raise ExportError(path, f"[[{name}]]", "0 entries", "name the joints that are observed, although the policy does not read them")
        if needed is not None and len(entries) != needed:
            raise ExportError(path, f"[[{name}]]", f"{len(entries)} entries", f"the policy has {needed} dimensions")
        dims = tuple(_dim(path, f"{name}[{i}]", entry, name == "action", relative) for i, entry in enumerate(entries))
        _check_pose(path, name, dims)
        lists.append(dims)
    return Embodiment(
        values["robot"], _number(path, values, "fps", None, above=0.0), _number(path, values, "observation_lag_s", 0.0), _number(path, values, "max_skew_s", 0.05), *lists
    )


def _number(path: Path, table: dict, key: str, default: float | None, above: float | None = None, where: str = "") -> float:
    value = table.get(key, default)
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not good or (above is not None and value <= above) or (above is None and key.endswith("_s") and value < 0):
        raise ExportError(path, where + key, value, "write a finite number" + (f" above {above}" if above is not None else ""))
    return float(value)


def _check_pose(path: Path, name: str, dims: tuple[Dim, ...]) -> None:
    """Raises ExportError for half a pose, or one of two kinds."""
    given = [dim.component for dim in dims if dim.component]
    whole = [triple for triple in TRIPLES if set(triple) <= set(given)]
    if sorted(given) != sorted(sum(whole, ())) or (given and TRIPLES[0] not in whole) or len(whole) > 2:
        raise ExportError(path, f"{name}.component", given, "a pose is x, y, z and, where the tool turns, roll, pitch, yaw or wx, wy, wz, each once")
    if len({(dim.kind, dim.frame) for dim in dims if dim.component}) > 1:
        raise ExportError(path, f"{name}.kind", sorted({dim.kind for dim in dims if dim.component}), "all components of the pose are of one kind and frame")


def _component(path: Path, where: str, entry: dict, unit: str) -> str:
    component = entry.get("component", "")
    if component and COMPONENTS.get(component) != unit:
        remedy = f"{component} is in {COMPONENTS[component]}" if component in COMPONENTS else f"write one of {', '.join(COMPONENTS)}"
        raise ExportError(path, f"{where}.component", component, remedy)
    return component


def _dim(path: Path, where: str, entry: dict, is_action: bool, relative: bool) -> Dim:
    known = {"name", "unit", "scale", "offset", "component"} | ({"kind", "frame", "interpolation", "blending"} if is_action else set())
    for key in entry.keys() - known:
        raise ExportError(path, f"{where}.{key}", entry[key], f"unknown key; use {', '.join(sorted(known))}")
    name, unit = entry.get("name"), entry.get("unit", "rad")
    if not isinstance(name, str) or not name:
        raise ExportError(path, f"{where}.name", name, "write the joint's name as the robot description has it")
    if unit not in ("rad", "m"):
        raise ExportError(path, f"{where}.unit", unit, "rad or m: scale and offset convert the dataset's numbers")
    scale = _number(path, entry, "scale", 1.0, above=0.0, where=f"{where}.")
    offset = _number(path, entry, "offset", 0.0, where=f"{where}.")
    component = _component(path, where, entry, unit)
    if not is_action:
        return Dim(name, unit, scale, offset, component=component)
    kind = entry.get("kind", "joint_abs")
    kinds = ("joint_abs", *(["joint_rel"] if relative else []), "gripper", *POSES)
    if kind not in kinds:
        raise ExportError(path, f"{where}.kind", kind, f"write one of {', '.join(kinds)}")
    if (kind in POSES) != bool(component):
        raise ExportError(path, f"{where}.component", component, f"say which number of the pose it is: {', '.join(COMPONENTS)}" if kind in POSES else "a joint is no component of a pose: remove it")
    if kind in ("joint_rel", *DIFFERENCES) and offset != 0:
        raise ExportError(path, f"{where}.offset", offset, "a difference has no offset: write 0")
    frame = entry.get("frame", "")
    frames = ("base", "tool") if kind in DIFFERENCES else ("base", "") if kind == "ee_abs" else ("",)
    if frame not in frames:
        raise ExportError(path, f"{where}.frame", frame, f"write {' or '.join(filter(None, frames))}" if any(frames) else "a joint has no frame: remove it")
    turns = kind in POSES and unit == "rad"
    blending = "latch" if kind == "gripper" else "average"
    return Dim(name, unit, scale, offset, kind, entry.get("interpolation", "slerp" if turns else "smooth"), entry.get("blending", blending), component, frame)
