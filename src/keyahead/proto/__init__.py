"""Code generated from proto/ by scripts/gen_proto.py; `make proto` renews it."""
