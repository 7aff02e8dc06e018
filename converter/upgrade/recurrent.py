"""Recurrent networks, and Scan, whose first version had a batch axis."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sardonyx.graph import Graph, Node, Value

from .site import Site, adapter


@adapter(7, "LSTM", "GRU", "RNN")
def output_sequence(site: Site) -> None:
    """`output_sequence` said whether Y is wanted; naming it says so."""
    site.take("output_sequence")


@adapter(9, "Scan")
def batched_scan(site: Site) -> None:
    """Every operand had a batch axis before the others, input 0 gave each batch element's number of steps, `directions` were those of the inputs.

    An outer Scan over the batch, without state, runs the Scan of one batch element; its outputs are padded with zeros to the longest."""
    node = site.node
    lengths, operands = node.inputs[0], node.inputs[1:]
    count = node.attributes["num_scan_inputs"]
    n_states = len(operands) - count
    attributes: dict[str, Any] = {"body": node.attributes["body"], "num_scan_inputs": count}
    directions = site.take("directions")
    if directions:
        attributes["scan_input_directions"] = directions
    elements = [Value(site.name("element")) for _ in operands]
    outputs = [Value(site.name("result")) for _ in node.outputs]
    body = Graph(site.name("batch"), elements, outputs)
    if lengths is None:
        body.nodes = [Node("Scan", elements, outputs, attributes, origin=node.origin)]
    else:
        _ragged(site, body, n_states, attributes)
        operands = (lengths, *operands)
    node.attributes = {"body": body, "num_scan_inputs": len(operands)}
    node.set_inputs(operands)


def _ragged(site: Site, body: Graph, n_states: int, attributes: dict[str, Any]) -> None:
    """Fill `body` for batch elements of different lengths: cut the inputs, scan, pad the outputs."""
    def step(op_type: str, inputs: Sequence[Value | None], **options: Any) -> Value:
        made = Value(site.name(op_type.lower()))
        body.node(op_type, inputs, [made], origin=site.node.origin, **options)
        return made

    length, elements, results = Value(site.name("length")), list(body.inputs), body.outputs
    zero = site.ints([0])
    steps = step("Unsqueeze", [length, zero])
    cut = [step("Slice", [v, zero, steps, zero]) for v in elements[n_states:]]
    longest = step("Shape", [elements[n_states]], start=0, end=1)
    pads = step("Concat", [zero, step("Sub", [longest, steps])], axis=0)
    raw = [Value(site.name("raw")) for _ in results[n_states:]]
    body.node("Scan", [*elements[:n_states], *cut], [*results[:n_states], *raw], origin=site.node.origin, **attributes)
    for value, result in zip(raw, results[n_states:], strict=True):
        body.node("Pad", [value, pads, None, zero], [result], origin=site.node.origin)
    body.inputs = [length, *elements]
