"""Operators, one module a family; each is defined once (see `registry`). `lookup` imports a family when one of its operators is first needed."""
from __future__ import annotations

from importlib import import_module

from ..errors import NotImplemented as NotImplementedHere
from .index import INDEX
from .registry import Context, Operator, Spec, _registered, operator, require

__all__ = ["Context", "Operator", "Spec", "exists", "lookup", "names", "operator", "require"]


def exists(domain: str, op_type: str) -> bool:
    """Whether the operator is defined, without importing it."""
    return (domain, op_type) in INDEX


def lookup(domain: str, op_type: str) -> Operator:
    """The operator; NotImplemented, listing near names, where there is none."""
    found = _registered.get((domain, op_type))
    if found is None and (domain, op_type) in INDEX:
        import_module(f".{INDEX[domain, op_type]}", __package__)
        found = _registered.get((domain, op_type))
    if found is None:
        from difflib import get_close_matches
        known = sorted(name for d, name in INDEX if d == domain)
        if not known:
            raise NotImplementedHere(f"operator domain '{domain}' is not supported (operator {op_type}); supported domains: {', '.join(sorted({d or 'ai.onnx' for d, _ in INDEX}))}")
        near = get_close_matches(op_type, known, 3)
        raise NotImplementedHere(f"operator {op_type} of domain '{domain or 'ai.onnx'}' is not supported" + (f"; did you mean {' or '.join(near)}?" if near else "")
                                 + f" ({len(known)} operators of this domain are: `sardonyx inspect --operators` lists them)")
    return found


def names(domain: str | None = None) -> list[tuple[str, str]]:
    """All (domain, operator) pairs, sorted."""
    return sorted(key for key in INDEX if domain is None or key[0] == domain)
