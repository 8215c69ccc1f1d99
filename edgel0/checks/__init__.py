"""Whether an artefact keeps its budget: limits from TOML, figures from files, verdicts for people and CI; no torch."""
