"""The checks, one file per kind of knowledge they need. Importing this package registers them all."""

from . import files, fillers, initial, measured, precision, predicted, solvers  # noqa: F401  registers their checks
