"""``endplate-export``: somebody else's checkpoint becomes a policy bundle that gives the same actions."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

#: LeRobot policy types, as config.json names them -> processor steps their families do in the runtime or the graphs.
FAMILIES: dict[str, set[str]] = {
    "act": set(),
    "diffusion": set(),
    "smolvla": {"smolvla_new_line_processor", "tokenizer_processor"},
    "pi0": {"pi0_new_line_processor", "tokenizer_processor", "relative_actions_processor", "absolute_actions_processor"},
    "pi0_fast": {"pi0_fast_prepare_state_tokenizer_processor_step", "tokenizer_processor", "action_tokenizer_processor", "relative_actions_processor", "absolute_actions_processor"},
    "pi05": {"pi05_prepare_state_tokenizer_processor_step", "tokenizer_processor", "relative_actions_processor", "absolute_actions_processor"},
}


def lerobot(args: argparse.Namespace) -> int:
    """``endplate-export lerobot``; 0 on success, 2 when something is refused."""
    from .lerobot import ExportError, checkpoint as checkpoints

    try:
        checkpoint = checkpoints.read(args.checkpoint, FAMILIES)
        try:
            import lerobot as _  # noqa: F401
            import torch
        except ImportError as error:
            raise ExportError("", "", "", f"{error}; this command needs Python 3.12 and `pip install './policies/export[lerobot]'`") from None
        from .lerobot import bundle

        torch.set_num_threads(1)
        embodiment = bundle.open_embodiment(checkpoint, args.embodiment)
        source = bundle.load(checkpoint, embodiment)
        from .lerobot.act import Act
        from .lerobot.diffusion import Diffusion
        from .lerobot.pi0_fast import Pi0Fast
        from .lerobot.vla import Vla

        family = {"act": Act, "diffusion": Diffusion, "smolvla": Vla, "pi0": Vla, "pi05": Vla, "pi0_fast": Pi0Fast}[checkpoint.family](source)
        name = args.name or args.out.name.replace("_", "-")
        description = args.description or f"A LeRobot policy of type {checkpoint.family}."
        report = bundle.write(source, family, args.out, name, description)
    except ExportError as error:
        print(f"endplate-export: {error}", file=sys.stderr)
        return 2
    print("\n".join([*report, f"wrote {args.out}"]))
    return 0


def parse(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="endplate-export", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("lerobot", help="a folder written by LeRobot's save_pretrained")
    one.add_argument("checkpoint", type=Path, metavar="PATH", help="the folder, with config.json, model.safetensors and the processors")
    one.add_argument("--out", required=True, type=Path, help="bundle folder to make; it must not exist")
    one.add_argument("--embodiment", type=Path, help="joint names, units and rate (default: PATH/embodiment.toml)")
    one.add_argument("--name", help="name of the policy (default: from --out)")
    one.add_argument("--description", help="one sentence for people")
    one.set_defaults(run=lerobot)
    return parser.parse_args(argv)


def main(argv=None) -> int:
    """Command line entry."""
    args = parse(argv)
    return args.run(args)


if __name__ == "__main__":
    sys.exit(main())
