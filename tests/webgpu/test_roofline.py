"""What the roofline counts: memory on the GPU beside the largest live set; and that the document is current."""
from __future__ import annotations

import pytest

from tests.bench import roofline
from tests.bench.workloads import BERT, MOBILENET, RESNET, YARDSTICKS

LSTM = next(w for w in YARDSTICKS if w.file == "lstm")


@pytest.mark.parametrize(("workload", "least"), [(MOBILENET, 1 << 20), (BERT, 1 << 20), (LSTM, 1 << 19), pytest.param(RESNET, 1 << 20, marks=pytest.mark.slow)], ids=lambda w: getattr(w, "file", None))
def test_memory_is_at_most_a_fifth_above_the_largest_live_set(workload: object, least: int) -> None:
    made = roofline.bound(workload)  # type: ignore[arg-type]
    assert made.live > least
    assert made.slabs <= 1.2 * made.live


def test_a_product_is_counted_right() -> None:
    """1024³: two operations a multiply-add, both matrices and the result once."""
    cells = [c.strip() for c in roofline.row(next(w for w in YARDSTICKS if w.file == "gemm-1024")).split("|")]
    assert cells[2] == "1 (1 matmul)" and float(cells[3]) == 2.15 and float(cells[4]) == 12.6


@pytest.mark.slow
def test_the_document_is_current() -> None:
    assert roofline.TARGET.read_text() == roofline.document(), "run make roofline"
