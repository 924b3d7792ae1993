"""Branches for LoRA adapters in the model's graph.

Each matrix W that an adapter can change gets a branch, so that it gives W x + B (A x), where A and B are inputs of the model: a step is
computed with one adapter, or with none, whose A and B have rank 0. All share W, which is in INT8, and nobody changes it (docs/adr/0016).
"""

from __future__ import annotations

import re

import numpy as np
import openvino as ov
from openvino import opset13

from keyahead.engine.adapters import MODULES
from keyahead.engine.cpu.lora import Site, Sites, names

_WEIGHT = re.compile(r"model\.layers\[(\d+)\]\.(?:self_attn|mlp)\.(\w+)\.weight")
"""How openvino_genai names a matrix that it has read from a GGUF file; its rows are in Hugging Face's order again, Llama's Q and K too."""


def add_branches(model: ov.Model) -> Sites:
    """Give each matrix that an adapter can change its branch."""
    sites: dict[Site, tuple[int, int]] = {}
    inputs = []
    for node in model.get_ordered_ops():
        match = _WEIGHT.fullmatch(_origin(node)) if node.get_type_name() == "MatMul" else None
        if match is None:
            continue
        site = MODULES[match[2]].id, int(match[1])
        width_out, width_in = (dimension.get_length() for dimension in node.input(1).get_partial_shape())
        a, b = opset13.parameter([-1, width_in], np.float32), opset13.parameter([width_out, -1], np.float32)
        for parameter, name in zip((a, b), names(site), strict=True):
            parameter.output(0).tensor.names = {name}
        readers = node.output(0).get_target_inputs()
        branch = opset13.matmul(opset13.matmul(node.input(0).get_source_output(), a, False, True), b, False, True)
        total = opset13.add(node.output(0), branch.output(0))
        for reader in readers:
            reader.replace_source_output(total.output(0))
        inputs += [a, b]
        sites[site] = width_in, width_out
    model.add_parameters(inputs)
    model.validate_nodes_and_infer_types()
    return sites


def _origin(matmul: ov.Node) -> str:
    """The name of the constant that a matrix is made of, behind what decompresses it."""
    node = matmul.input(1).get_source_output().get_node()
    while node.inputs():
        node = node.input(0).get_source_output().get_node()
    return str(node.get_friendly_name())
