"""Cases of ONNX's backend suite, of operators that we have, that do not pass, and why.

A case that an operator passes after all must be taken out here: a test sees to it. Models with types that are
not ours to take, and with operators that we do not have, are told apart by the harness and are not listed.
"""

from __future__ import annotations

_TRAINING = "training mode: only networks in inference are explained"
_ALIGNED = (
    "align_corners with scales that do not divide evenly: expected is a map from a fractional length; ours"
    " goes from corner to corner of the whole cells that there are, as PyTorch's and onnxruntime's does"
)
_DOUBLE = "float64 values beyond float32, in which everything is computed"
_SLOPE = "onnx's converter from opset 6 leaves the slope in a shape that opset 7 cannot broadcast"
_BATCHES = "Scan of opset 8, which runs over batches, has no exact counterpart in newer opsets"
_UNPOOL = (
    "positions count in the input of the MaxPool that made them; ours count in the output shape that is"
    " given, as onnxruntime's do"
)

EXCLUDED: dict[str, str] = {
    "batchnorm_epsilon_training_mode": _TRAINING,
    "batchnorm_example_training_mode": _TRAINING,
    "training_dropout": _TRAINING,
    "training_dropout_default": _TRAINING,
    "training_dropout_default_mask": _TRAINING,
    "training_dropout_mask": _TRAINING,
    "training_dropout_zero_ratio": _TRAINING,
    "training_dropout_zero_ratio_mask": _TRAINING,
    "resize_downsample_scales_cubic_align_corners": _ALIGNED,
    "resize_downsample_scales_linear_align_corners": _ALIGNED,
    "scan_sum": _BATCHES,
    "maxunpool_export_with_output_shape": _UNPOOL,
    "operator_add_broadcast": _DOUBLE,
    "operator_add_size1_right_broadcast": _DOUBLE,
    "operator_add_size1_singleton_broadcast": _DOUBLE,
    "operator_addconstant": _DOUBLE,
    "PReLU_1d_multiparam": _SLOPE,
    "PReLU_2d_multiparam": _SLOPE,
    "PReLU_3d_multiparam": _SLOPE,
}
"""Reason by case name."""
