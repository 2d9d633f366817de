"""Real models out of packages, not part of the test suite: `make onnx-zoo`."""
