"""Models as ONNX files: found beside the weights, put together from them, or traced by torch; kept in a cache."""
