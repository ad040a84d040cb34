"""The form of GELU in exported graphs.

PyTorch's exporter writes GELU as `x * ((1 + erf(x / sqrt(2))) * 0.5)`. onnxruntime does not fuse this form into one operator.
OpenCV 5.0 crashes when it reads it, even if the file has no other node. Both know `(x * (1 + erf(x / sqrt(2)))) * 0.5`, with the
constants second.
The results are the same to the last bit, because a product with 0.5 is exact.
"""

from typing import Any


def reorder_gelus(graph: Any) -> int:
    """Write every GELU of an ONNX graph in the form that runtimes fuse, in place.

    Returns:
        How many were changed.
    """
    producers = {output: node for node in graph.node for output in node.output}
    constants = {stored.name for stored in graph.initializer}
    constants |= {node.output[0] for node in graph.node if node.op_type == 'Constant'}
    uses: dict[str, int] = {}
    for name in [name for node in graph.node for name in node.input] + [output.name for output in graph.output]:
        uses[name] = uses.get(name, 0) + 1
    found = 0
    for last in graph.node:
        halved = next((node for node in _operands(last, 'Mul', producers) if _only(node, 'Mul', uses)), None)
        added = halved and next((node for node in _operands(halved, 'Mul', producers) if _only(node, 'Add', uses)), None)
        erf = added and next((node for node in _operands(added, 'Add', producers) if node.op_type == 'Erf'), None)
        if not erf:
            continue
        x = _other(last, halved)
        half, one = _other(halved, added), _other(added, erf)
        if half not in constants:  # x: the form is the wanted one
            continue
        added.input[:] = [erf.output[0], one]
        halved.input[:] = [x, added.output[0]]
        last.input[:] = [halved.output[0], half]
        found += 1
    return found


def _operands(node: Any, kind: str, producers: dict[str, Any]) -> list[Any]:
    """The nodes that compute the two factors or summands of `node`; [] if it is of another kind."""
    return [producers[name] for name in node.input if name in producers] if node.op_type == kind else []


def _only(node: Any, kind: str, uses: dict[str, int]) -> bool:
    """Whether `node` is of this kind and its output is used once."""
    return node.op_type == kind and uses[node.output[0]] == 1


def _other(node: Any, operand: Any) -> str:
    """The name of the operand of `node` that `operand` does not compute."""
    return next(name for name in node.input if name != operand.output[0])
