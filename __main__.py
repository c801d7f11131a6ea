"""The command line: `diffharmony <command>`, or `python -m diffharmony <command>`."""

from __future__ import annotations

import importlib
import inspect
import json
import logging
import os
import sys
from typing import NamedTuple


class Command(NamedTuple):
    """Where a command lives. `module` is relative to this package and imported only when the command is asked for.

    `config` names a dataclass, or a dict of presets {name: (description, config)}; `main` is called with the config, and a
    dict that it returns is what --json prints.
    """

    module: str
    config: str
    main: str
    summary: str


COMMANDS = {
    "harmonize": Command(".commands.harmonize", "HarmonizeConfig", "run_harmonize", "relight the foreground of a composite photograph"),
    "convert": Command(".commands.convert", "ConvertConfig", "run_convert", "the authors' archive or diffusers folders to our files"),
    "train-vae": Command(".train.vae", "PRESETS", "main", "train a Harmony-VAE"),
    "train-unet": Command(".train.unet", "PRESETS", "main", "train a harmonization or inverse UNet"),
    "train-refinement": Command(".train.refinement", "PRESETS", "main", "train a refinement stage"),
    "train-classifier": Command(".train.classifier", "PRESETS", "main", "train a harmony classifier"),
    "train-autoencoder": Command(".train.autoencoder", "PRESETS", "main", "train a small plain VAE to start from"),
    "generate": Command(".commands.generate", "GenerateConfig", "run_generate", "make composites out of real photographs"),
    "select": Command(".commands.select", "SelectConfig", "run_select", "choose the most unharmonious of them"),
    "augment": Command(".commands.augment", "AugmentConfig", "run_augment", "make a training set grow by composites of its own photographs"),
    "human-harmony": Command(".commands.human_harmony", "HumanHarmonyConfig", "run_human_harmony", "build Human Harmony from photographs and outlines"),
    "evaluate": Command(".commands.evaluate", "EvaluateConfig", "run_evaluate", "measure folders of harmonized images"),
    "push": Command(".commands.push", "PushConfig", "run_push", "publish checkpoints on the Hugging Face Hub"),
    "reproduce": Command(".commands.reproduce", "ReproduceConfig", "run_reproduce", "the paper's tables and figures, ours beside them"),
}
# Our errors are of these kinds (DESIGN.md, style) and get one line. Anything else is a defect and shows its traceback.
USER_ERRORS = (ValueError, OSError, RuntimeError, FloatingPointError)
# Packages of the extra `train` that a ComfyUI environment may lack.
FROM_EXTRA = (
    "accelerate", "filelock", "jinja2", "matplotlib", "numpy", "PIL", "safetensors", "scipy", "skimage", "sklearn", "tensorboard",
    "torch", "torchvision", "tqdm", "transformers", "tyro",
)  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns: 0, or 1 after an error that the user can act on; exits with 2 for wrong usage."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0 if argv else 2
    name, arguments = argv[0], argv[1:]
    if name not in COMMANDS:
        print(f"diffharmony: command must be one of {', '.join(COMMANDS)}, got {name!r}. Try diffharmony --help.", file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        return _run(name, COMMANDS[name], arguments)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in FROM_EXTRA:
            raise
        advice = "Install the extra, in the repository: pip install -e '.[train]'"
        print(f"diffharmony {name}: {error.name} must be installed, got none. {advice}", file=sys.stderr)
        return 1
    except USER_ERRORS as error:
        if os.environ.get("DIFFHARMONY_TRACEBACK"):
            raise
        message = " ".join(str(error).split()) or type(error).__name__
        hint = " (DIFFHARMONY_TRACEBACK=1 shows where this comes from)" if isinstance(error, RuntimeError) else ""
        print(f"diffharmony {name}: {message}{hint}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"diffharmony {name}: interrupted", file=sys.stderr)
        return 130


def usage() -> str:
    """The list of commands."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join([
        "usage: diffharmony <command> [options]",
        "",
        "commands:",
        *lines,
        "",
        "examples:",
        "  diffharmony harmonize composite.png mask.png --out harmonized.png",
        "  diffharmony harmonize --help",
        "",
        "Set DIFFHARMONY_TRACEBACK=1 to see where an error comes from.",
    ])  # fmt: skip


def _run(name: str, command: Command, arguments: list[str]) -> int:
    import tyro

    module = importlib.import_module(command.module, package=__package__)
    kind, prog = getattr(module, command.config), f"diffharmony {name}"
    if isinstance(kind, dict):
        config = tyro.extras.overridable_config_cli(kind, args=arguments, prog=prog, description=module.__doc__)
        resolve_overrides = importlib.import_module(".train.checks", package=__package__).resolve_overrides
        config = resolve_overrides(config, arguments)
    else:
        # tyro's own reading of a docstring drops its examples
        config = tyro.cli(kind, args=arguments, prog=prog, description=inspect.getdoc(kind))
    result = getattr(module, command.main)(config)
    first_process = os.environ.get("RANK", "0") == "0"
    if isinstance(result, dict) and getattr(config, "json", False) and first_process:
        print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
