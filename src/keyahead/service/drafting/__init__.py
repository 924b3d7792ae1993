"""Drafts: guesses at the next tokens, which the engine verifies several at once for little more than the price of one."""
