"""A custom node folder for tests: it writes `called <class>` into the host's log whenever a model's encoder, decoder or UNet runs."""

from torch.nn.modules.module import register_module_forward_pre_hook

NODE_CLASS_MAPPINGS = {}
COUNTED = {"Encoder", "ConditionalEncoder", "UNetModel"}


def _count(module, args):
    name = type(module).__name__
    if name in COUNTED:
        print("called", name, flush=True)


register_module_forward_pre_hook(_count)
