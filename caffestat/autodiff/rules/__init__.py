"""The gradient rules, one module per family of ops. Importing this package registers them all."""
