"""The pictures of a report, as PNG bytes: plots, contact sheets, fingerprints."""
