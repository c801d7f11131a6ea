"""How the example workflows are drawn: no more links cross each other than the order of their nodes' inputs makes."""

import itertools
import json

import numpy as np
import pytest

from diffharmony.common.assets import ROOT

WORKFLOWS = sorted([*(ROOT / "workflows").glob("*.json"), *(ROOT / "applications" / "publish").glob("*.json")])
ROW = 20  # LiteGraph's height of a slot
RIGHT = np.array([1.0, 0.0])
# Image and mask go into a node and, past it, into another whose later input is that node's result: no drawing is without crossings. How many are left.
LEFT = {"harmonize_advanced": 6, "build_dataset": 2, "refine": 8}


def slot(node, side, index):
    """Where a link ends: [x, y]. A widget that takes links lies below the plain inputs."""
    slots = node[side]
    plain = [one for one in slots if "widget" not in one]
    widgets = [one for one in slots if "widget" in one and one["link"] is not None]
    row = plain.index(slots[index]) if slots[index] in plain else len(plain) + widgets.index(slots[index])
    (x, y), (width, _) = node["pos"], node["size"]
    return np.array([x + (width if side == "outputs" else 0), y + (row + 0.7) * ROW], dtype=float)


def drawn(workflow):
    """{link: its curve [N, 2]}, as LiteGraph's: out to the right, in from the left, between the neighbours' directions at what it is led by."""
    nodes = {node["id"]: node for node in workflow["nodes"]}
    reroutes = {one["id"]: one for one in workflow["extra"].get("reroutes") or ()}
    last = {one["id"]: one["parentId"] for one in workflow["extra"].get("linkExtensions") or ()}
    curves = {}
    for number, origin, output, target, input, _ in workflow["links"]:
        led, one = [], reroutes.get(last.get(number))
        while one is not None:
            led.insert(0, np.array(one["pos"], dtype=float))
            one = reroutes.get(one.get("parentId"))
        points = np.stack([slot(nodes[origin], "outputs", output), *led, slot(nodes[target], "inputs", input)])
        steps = np.diff(points, axis=0)
        ways = steps / np.linalg.norm(steps, axis=1, keepdims=True)
        turns = [RIGHT, *(way / np.linalg.norm(way) for way in ways[1:] + ways[:-1]), RIGHT]
        curves[number] = np.concatenate([spline(*points[i : i + 2], *turns[i : i + 2]) for i in range(len(steps))])
    return curves


def spline(a, b, out, into):
    reach = np.linalg.norm(b - a) / 4
    t = np.linspace(0, 1, 50)[:, None]
    return (1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * (a + reach * out) + 3 * (1 - t) * t**2 * (b - reach * into) + t**3 * b


def cross(one, other):
    a, b, c, d = one[:-1, None], one[1:, None], other[None, :-1], other[None, 1:]
    return bool(((side(a, b, c) * side(a, b, d) < 0) & (side(c, d, a) * side(c, d, b) < 0)).any())


def side(a, b, point):
    return (b - a)[..., 0] * (point - a)[..., 1] - (b - a)[..., 1] * (point - a)[..., 0]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_links_cross_only_where_they_must(path):
    workflow = json.loads(path.read_text(encoding="utf-8"))
    nodes = {node["id"]: node for node in workflow["nodes"]}
    origins = {link[0]: tuple(link[1:3]) for link in workflow["links"]}
    names = {link[0]: f"{nodes[link[1]]['type']} -> {nodes[link[3]]['type']}.{nodes[link[3]]['inputs'][link[4]]['name']}" for link in workflow["links"]}
    pairs = itertools.combinations(drawn(workflow).items(), 2)
    crossing = [(names[a], names[b]) for (a, one), (b, other) in pairs if origins[a] != origins[b] and cross(one, other)]
    assert len(crossing) == LEFT.get(path.stem, 0), crossing
