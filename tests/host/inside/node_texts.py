"""Print the nodes' texts in the form of locales/en/nodeDefs.json: `node_texts.py [--write]`."""

import asyncio
import json
import sys
from pathlib import Path

import extension

write = "--write" in sys.argv
loaded = extension.load()


def texts(node) -> dict:
    schema = node.GET_SCHEMA()
    return {
        "display_name": schema.display_name,
        "description": schema.description,
        "inputs": {field.id: {"name": field.display_name or field.id, "tooltip": field.tooltip} for field in schema.inputs},
        "outputs": {str(index): {"name": field.display_name, "tooltip": field.tooltip} for index, field in enumerate(schema.outputs)},
    }


async def collect() -> dict:
    nodes = await (await loaded.comfy_entrypoint()).get_node_list()
    return {node.GET_SCHEMA().node_id: texts(node) for node in nodes}


definitions = asyncio.run(collect())
if write:
    path = Path(loaded.__file__).parent / "locales" / "en" / "nodeDefs.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(definitions, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
print(json.dumps(definitions))
