"""Weights in half precision, arithmetic in fp32."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from hrkd_cli.onnx_export.onnx_graph import OnnxGraph

_LARGEST = float(np.finfo(np.float16).max)


def store_fp16(graph: OnnxGraph) -> None:
    """Store weights in fp16 and turn them back when the graph is loaded.

    CPUs have no fp16 kernels for most operators: a graph that computes in fp16 is full of conversions there, was slower
    than fp32 and can overflow. A weight with a number beyond fp16's range stays as it is.
    """
    consumers = graph.consumers()
    for tensor in list(graph.model.graph.initializer):
        value = graph.constants[tensor.name]
        if value.dtype != np.float32 or value.size == 1 or float(np.abs(value).max(initial=0)) > _LARGEST:
            continue
        stored = graph.add_constant(f"{tensor.name}_fp16", value.astype(np.float16))
        cast = graph.add_node("Cast", [stored], f"{tensor.name}_Cast", to=TensorProto.FLOAT)
        graph.replace_input(consumers[tensor.name], tensor.name, cast.output[0])
