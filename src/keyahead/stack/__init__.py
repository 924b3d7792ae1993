"""The processes that make up a running keyahead: what they need, how they start, and who watches them."""
