"""``endplate-export``: somebody else's checkpoint becomes a policy bundle that gives the same actions."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import quantise

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


def prepare_openpi(args: argparse.Namespace, scratch: Path):
    """Source and family of an openpi checkpoint, which is rewritten under ``scratch``. Raises ExportError."""
    from .lerobot import ExportError, checkpoint as checkpoints, embodiment as embodiments
    from .openpi import checkpoint as openpis

    embodiment = embodiments.read(args.embodiment or args.checkpoint / embodiments.FILE, None, None, relative=True)
    given = openpis.read(args.checkpoint, len(embodiment.state), len(embodiment.action))
    try:
        import lerobot as _  # noqa: F401
        import torch
    except ImportError as error:
        raise ExportError("", "", "", f"{error}; this command needs Python 3.12 and `pip install './policies/export[lerobot]'`") from None
    from .lerobot import bundle
    from .lerobot.vla import Vla
    from .openpi import lerobot_form
    from .openpi.fast import OpenPiFast

    torch.set_num_threads(1)
    folder = scratch / "checkpoint"
    lerobot_form.write(given, folder, args.cameras.split(","), args.tokenizer.resolve(), args.fast and args.fast.resolve(), (args.resolution, args.resolution))
    source = bundle.load(checkpoints.read(folder, FAMILIES), embodiment)
    source.origin = "openpi's conventions, own reference" if given.family == "pi0_fast" else f"openpi through {source.origin}"
    return source, OpenPiFast(source) if given.family == "pi0_fast" else Vla(source, clean=given.family == "pi0")


def prepare_openvla(args: argparse.Namespace, _scratch: Path):
    """Source and family of an OpenVLA checkpoint. Raises ExportError."""
    from .lerobot import ExportError, embodiment as embodiments

    try:
        import torch
        import transformers as _  # noqa: F401
    except ImportError as error:
        raise ExportError("", "", "", f"{error}; this command needs `pip install './policies/export[openvla]'`") from None
    from .lerobot import bundle
    from .openvla import checkpoint as checkpoints, families, network

    torch.set_num_threads(1)
    checkpoint = checkpoints.read(args.checkpoint, args.cameras.split(","), args.dataset)
    embodiment = embodiments.read(args.embodiment or args.checkpoint / embodiments.FILE, checkpoint.states, len(checkpoint.action_statistics["q01"]))
    source = bundle.Source(checkpoint, embodiment, network.OpenVla(checkpoint).eval(), None, None, "OpenVLA's arithmetic, own reference")
    if checkpoint.family == "openvla":
        return source, families.OneByOne(source, args.max_text_tokens, args.resize)
    if args.horizon is None:
        raise ExportError("--horizon", "", "missing", "OFT's code holds the rows of a chunk as a constant (LIBERO 8, ALOHA 25, Bridge 5): write it")
    return source, families.OnePass(source, args.max_text_tokens, args.resize, args.horizon)


def exported(args: argparse.Namespace) -> int:
    """``endplate-export openpi`` and ``openvla``; 0 on success, 2 when something is refused."""
    import tempfile

    from .lerobot import ExportError

    try:
        with tempfile.TemporaryDirectory() as scratch:
            source, family = args.prepare(args, Path(scratch))
            from .lerobot import bundle

            name = args.name or args.out.name.replace("_", "-")
            report = bundle.write(source, family, args.out, name, args.description or f"A policy of type {source.checkpoint.family}.")
    except ExportError as error:
        print(f"endplate-export: {error}", file=sys.stderr)
        return 2
    print("\n".join([*report, f"wrote {args.out}"]))
    return 0


def parse(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="endplate-export", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, run, about: str, holds: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=about)
        one.add_argument("checkpoint", type=Path, metavar="PATH", help=f"the folder, with {holds}")
        one.add_argument("--out", required=True, type=Path, help="bundle folder to make; it must not exist")
        one.add_argument("--embodiment", type=Path, help="joint names, units and rate (default: PATH/embodiment.toml)")
        one.add_argument("--name", help="name of the policy (default: from --out)")
        one.add_argument("--description", help="one sentence for people")
        one.set_defaults(run=run)
        return one

    command("lerobot", lerobot, "a folder written by LeRobot's save_pretrained", "config.json, model.safetensors and the processors")
    one = command("openpi", exported, "openpi's PyTorch form", "config.json, model.safetensors and assets/*/norm_stats.json")
    one.add_argument("--cameras", required=True, help="the robot's cameras in the order base, left wrist, right wrist, separated by commas")
    one.add_argument("--tokenizer", required=True, type=Path, help="folder with PaliGemma's tokenizer in Hugging Face's form")
    one.add_argument("--fast", type=Path, help="folder of the FAST tokenizer, for π0-FAST")
    one.set_defaults(prepare=prepare_openpi)
    one.add_argument("--resolution", type=int, default=224, help="side of the model's images (default 224)")
    one = command("openvla", exported, "a merged OpenVLA checkpoint, or OpenVLA-OFT with its heads", "config.json, model*.safetensors, tokenizer.json")
    one.add_argument("--cameras", required=True, help="the robot's cameras in the order of training, separated by commas")
    one.set_defaults(prepare=prepare_openvla)
    one.add_argument("--dataset", help="key of norm_stats (where there are several)")
    one.add_argument("--horizon", type=int, help="rows of a chunk, for OFT")
    one.add_argument("--max-text-tokens", type=int, default=48, help="room for the prompt (default 48)")
    one.add_argument(
        "--resize", choices=["bicubic_antialiased", "lanczos3_antialiased", "bilinear_antialiased", "none"], default="bicubic_antialiased",
        help="how frames of another size are resampled (default: PIL's bicubic, as the published processor does; lanczos3_antialiased as its LIBERO and OFT evaluation does before that; none refuses them)",
    )
    quantise.arguments(commands)
    return parser.parse_args(argv)


def main(argv=None) -> int:
    """Command line entry."""
    args = parse(argv)
    return args.run(args)


if __name__ == "__main__":
    sys.exit(main())
