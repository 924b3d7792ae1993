"""From a Hugging Face checkpoint to a TensorRT-LLM engine behind Triton: plan, rules, build, preflight."""
