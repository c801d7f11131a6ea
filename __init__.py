"""DiffHarmony: image harmonization, as a ComfyUI extension and as a Python package."""

import logging

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """What ComfyUI calls to learn our nodes."""
    try:
        from .nodes import DiffHarmonyExtension
    except RuntimeError:
        raise  # one line of ours, which the host shows
    except Exception:
        # The host keeps one line of an error, without where it came from.
        logging.getLogger("diffharmony").exception("DiffHarmony's nodes could not be loaded")
        raise
    return DiffHarmonyExtension()
