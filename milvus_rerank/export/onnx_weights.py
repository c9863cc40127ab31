"""Changes to the weights of an ONNX graph that quantisation needs."""

import numpy as np
import onnx
from onnx import numpy_helper


def transpose_weights(model: onnx.ModelProto) -> None:
    """Replace each transposed weight by a plain one: quantisation converts only a weight that is itself a constant.

    :param model: the ONNX model; changed in place.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in [node for node in model.graph.node if node.op_type == "Transpose" and node.input[0] in weights]:
        order = next((list(one.ints) for one in node.attribute if one.name == "perm"), None)
        turned = np.transpose(numpy_helper.to_array(weights[node.input[0]]), order)
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(turned), node.output[0]))
        model.graph.node.remove(node)
    drop_unused(model)


def drop_unused(model: onnx.ModelProto) -> None:
    """Remove the weights that no node uses.

    :param model: the ONNX model; changed in place.
    """
    used = {name for node in model.graph.node for name in node.input}
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name not in used]:
        model.graph.initializer.remove(tensor)
