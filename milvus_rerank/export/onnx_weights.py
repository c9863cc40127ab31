"""Changes to the weights of an ONNX graph that quantisation needs."""

import numpy as np
import onnx
from onnx import numpy_helper


def transpose_weights(model: onnx.ModelProto) -> None:
    """Replace, in place, each transposed weight by a plain one: quantisation converts only constants."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in [node for node in model.graph.node if node.op_type == "Transpose" and node.input[0] in weights]:
        order = next((list(attribute.ints) for attribute in node.attribute if attribute.name == "perm"), None)
        weight = np.transpose(numpy_helper.to_array(weights[node.input[0]]), order)
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(weight), node.output[0]))
        model.graph.node.remove(node)
    drop_unused(model)


def drop_unused(model: onnx.ModelProto) -> None:
    """Remove, in place, the weights that no node uses."""
    used = {name for node in model.graph.node for name in node.input}
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name not in used]:
        model.graph.initializer.remove(tensor)
