"""sardonyx: an ONNX runtime for the browser and the edge."""
