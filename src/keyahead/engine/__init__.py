"""From published weights to a served model."""
