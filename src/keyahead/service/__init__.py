"""The gRPC service: prompts, decoding, trimming, sessions, and everything around a call."""
