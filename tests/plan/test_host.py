"""What runs on the host is listed."""
from __future__ import annotations

import pytest
from sardonyx.ops import lookup
from sardonyx.ops.host import HOST_ONLY


@pytest.mark.parametrize("domain, name", HOST_ONLY)
def test_the_host_runs_what_has_no_kernels(domain: str, name: str) -> None:
    operator = lookup(domain, name)
    assert operator.host_only and operator.lowering is None, f"{name} has a lowering: take it off the list"
