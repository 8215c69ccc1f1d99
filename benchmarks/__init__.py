"""How good and how fast is edgel0? ``python -m benchmarks.NAME``: JSON lines and a table, imported by nobody."""
