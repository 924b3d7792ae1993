"""The CPU engine: an in-flight batcher over OpenVINO's paged attention, served by Triton's Python backend."""

import sys

# `import openvino` would otherwise start a usage report to the network (openvino_telemetry, by way of openvino.tools.ovc). Where code may
# not leave the company, nothing may even say that it runs.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
