"""What forks add to Caffe's messages: one module per family, made from proto/forks/ by proto/generate.py."""
