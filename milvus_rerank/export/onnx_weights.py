"""Weights of ONNX graphs, as what quantises wants to find them."""

import numpy as np
import onnx
from onnx import numpy_helper


def transpose_weights(model: onnx.ModelProto) -> None:
    """Turn transposed weights into weights: only what is multiplied by a constant itself becomes int8.

    :param model: an ONNX model, which is changed.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in [node for node in model.graph.node if node.op_type == "Transpose" and node.input[0] in weights]:
        order = next((list(one.ints) for one in node.attribute if one.name == "perm"), None)
        turned = np.transpose(numpy_helper.to_array(weights[node.input[0]]), order)
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(turned), node.output[0]))
        model.graph.node.remove(node)
    drop_unused(model)


def drop_unused(model: onnx.ModelProto) -> None:
    """Remove the weights that no node takes.

    :param model: an ONNX model, which is changed.
    """
    used = {name for node in model.graph.node for name in node.input}
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name not in used]:
        model.graph.initializer.remove(tensor)
