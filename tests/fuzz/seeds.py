"""Valid files to damage: every part of the format, and small models of many operators (ONNX's own test cases)."""
from __future__ import annotations

import io
import random
from collections.abc import Iterator
from functools import cache

from sardonyx.converter.onnx import load_model
from sardonyx.graph import Model
from sardonyx.model import write_model

from tests.conformance import suite
from tests.model.models import packed_model, rich_model

#: Operators with nested graphs, with sizes from data, with weights, and of the odd types.
CASES = """
    if if_seq if_opt loop11 loop13_seq loop16_seq_none scan_sum scan9_sum conv_with_strides_padding gru_defaults lstm_with_peepholes reshape_negative_dim
    slice_neg_steps gather_elements_0 scatternd resize_upsample_sizes_nearest einsum_batch_matmul constantofshape_int_zeros expand_dim_unchanged tile
    onehot_with_axis topk nonmaxsuppression_single_box unique_sorted_with_axis_3d split_variable_parts_1d_opset18 pad_constant concat_2d_axis_1
    range_int32_type_negative_delta sequence_insert_at_back string_concat tfidfvectorizer_tf_batch_uniandbigrams_skip5 optional_get_element_sequence
    quantizelinear_blocked_symmetric qlinearconv matmulinteger ai_onnx_ml_label_encoder_string_int ai_onnx_ml_tree_ensemble_set_membership attention_4d
    layer_normalization_2d_axis0 softmax_axis_0 maxpool_2d_dilations convtranspose_3d deform_conv_with_mask_bias bernoulli castlike_FLOAT_to_INT4
    affine_grid_2d stft dft col2im_5d center_crop_pad_crop_axes_hwc
""".split()  # noqa: SIM905


@cache
def onnx_files() -> tuple[bytes, ...]:
    """Small valid .onnx files."""
    wanted = {f"test_{name}" for name in CASES}
    files = {case.name: case.model for case in suite.load() if case.name in wanted}
    return tuple(files[name] for name in sorted(files))


@cache
def sdx_files() -> tuple[bytes, ...]:
    """Small valid .sdx files."""
    return tuple(_written(model) for model in (rich_model(), packed_model(), *_converted()))


def _converted() -> Iterator[Model]:
    for data in onnx_files():
        yield load_model(data)


def _written(model: Model) -> bytes:
    file = io.BytesIO()
    write_model(model, file)
    return file.getvalue()


def seeded(seed: int, number: int) -> random.Random:
    """The generator of one case: a case is found again by these two numbers."""
    return random.Random(seed << 32 | number)
