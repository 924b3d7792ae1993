"""The load test: simulated people type real files against a service, and each answer is judged. `docs/loadtest.md` gives the method.

Of keyahead it imports `proto` only, so that it measures a service from outside, as an editor would.
"""
