"""keyahead: self-hosted code autocomplete that answers before the next key."""
