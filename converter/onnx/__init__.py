"""Reading `.onnx` without the onnx package: `load_model`."""
from .importer import load_model

__all__ = ["load_model"]
