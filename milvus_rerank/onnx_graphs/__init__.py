"""Models as ONNX files: shipped with the model, or built from its weights or traced by torch, and kept in a cache."""
