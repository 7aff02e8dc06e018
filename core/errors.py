"""Every error sardonyx raises, under the names onnxruntime users catch.

Each message names the thing (model, node, operator, input, file offset) and says what to do. Callers that want one net catch
`SardonyxError`; code written for onnxruntime keeps working because the class names are onnxruntime's and the built-in bases
(`ValueError`, `FileNotFoundError`, `NotImplementedError`, `RuntimeError`) are what its Python layer raises for the same mistakes.
"""
from __future__ import annotations


class SardonyxError(Exception):
    """Base of every error raised on purpose by sardonyx."""


class Fail(SardonyxError, RuntimeError):
    """An operation failed and no narrower class fits."""


class RuntimeException(SardonyxError, RuntimeError):
    """A node failed while the model ran; the message names the node and the operator."""


class InvalidArgument(SardonyxError, ValueError):
    """The caller passed a wrong name, dtype, rank, shape or option."""


class NotPlanned(InvalidArgument):
    """No stored program covers the sizes of a run's inputs (a session that has the graph plans for them then)."""


class InvalidGraph(SardonyxError, ValueError):
    """The model is well-formed as a file and wrong as a graph (dangling name, cycle, bad attribute, type or shape conflict)."""


class InvalidProtobuf(SardonyxError, ValueError):
    """The bytes are not a readable `.onnx` file; the message gives the offset."""


class InvalidModelFile(InvalidProtobuf):
    """The bytes are not a readable `.sdx` file; the message gives the section and offset."""


class NoSuchFile(SardonyxError, FileNotFoundError):
    """A model or external data file does not exist."""


class NotImplemented(SardonyxError, NotImplementedError):  # noqa: A001 - onnxruntime's name
    """An operator, opset, domain or type that sardonyx does not have; the message lists what it has."""


class NoModel(SardonyxError):
    """A session was used without a model."""


class ModelLoaded(SardonyxError):
    """A model was loaded twice into one session."""


class EPFail(SardonyxError, RuntimeError):
    """An execution provider failed or refused a node (strict mode: the message contains "fallback")."""


class MemoryLimit(SardonyxError, MemoryError):
    """A plan or a node needs more memory than `session.memory_limit` allows (raised before anything is allocated) or than the machine gives."""


class Terminated(RuntimeException, Fail):
    """`RunOptions.terminate` was set while the run was going on."""
