"""The capacity model: what it takes to serve so many developers on time. `docs/capacity.md` gives the method and how well it predicts.

Pure: typists, engine and clock are simulated. What it knows of a real machine was measured (`measured.toml`, or a load test's result); what
it knows of a GPU is the roofline of `engine/trtllm`, and no GPU has been measured.
"""
