"""Every operation of Core ML programs against an independent calculation."""

import math

import cv2
import numpy as np
import pytest
from pixelwise import (
    BIAS,
    NORM,
    POSITIVE,
    UP,
    C,
    V,
    W,
    X,
    Y,
    close,
    convolve_by_hand,
    each,
    exact_gelu,
    gelu,
    interpolate,
    logistic,
    pool_by_hand,
    random,
    softmax_by_hand,
    spread_by_hand,
)

from coreml.program_operations import OPERATIONS as KNOWN_OPERATIONS


def ints(*values):
    return np.array(values, np.int32)


ONES, ZEROS = ints(1, 1), ints(0, 0, 0, 0)
GROUPED = random(6, 2, 3, 3, seed=3)
HALF_PIXEL_ROWS = [max(0, min(5, (i + 0.5) / 2 - 0.5)) for i in range(12)]
HALF_PIXEL_COLUMNS = [max(0, min(4, (i + 0.5) / 3 - 0.5)) for i in range(15)]
GROUPED_UP = random(4, 2, 2, 2, seed=10)
OPERATIONS = [
    (
        "conv",
        {
            "x": X,
            "weight": W,
            "strides": ints(2, 1),
            "pad_type": "custom",
            "pad": ints(1, 0, 2, 1),
            "dilations": ONES,
            "groups": 1,
            "bias": BIAS,
        },
        convolve_by_hand(X, W, BIAS, (2, 1), ((1, 0), (2, 1)), (1, 1), 1),
    ),
    (
        "conv",
        {"x": X, "weight": W, "strides": ints(2, 2), "pad_type": "same", "pad": ZEROS, "dilations": ONES, "groups": 1},
        convolve_by_hand(X, W, None, (2, 2), ((0, 1), (0, 1)), (1, 1), 1),
    ),
    (
        "conv",
        {"x": X, "weight": W, "strides": ints(2, 2), "pad_type": "same_lower", "dilations": ONES, "groups": 1},
        convolve_by_hand(X, W, None, (2, 2), ((1, 0), (1, 0)), (1, 1), 1),
    ),
    (
        "conv",
        {"x": X, "weight": GROUPED, "strides": ONES, "pad_type": "valid", "dilations": ints(2, 1), "groups": 2},
        convolve_by_hand(X, GROUPED, None, (1, 1), ((0, 0), (0, 0)), (2, 1), 2),
    ),
    (
        "conv_transpose",
        {
            "x": X,
            "weight": UP,
            "strides": ONES,
            "pad_type": "same",
            "pad": ZEROS,
            "dilations": ONES,
            "groups": 1,
            "output_shape": ints(1, 3, 6, 5),
            "bias": BIAS[:3],
        },
        spread_by_hand(X, UP, BIAS[:3], (1, 1), (1, 0), 1, (6, 5)),
    ),
    (
        "conv_transpose",
        {
            "x": X,
            "weight": GROUPED_UP,
            "strides": ints(2, 2),
            "pad_type": "custom",
            "pad": ints(1, 0, 0, 1),
            "dilations": ONES,
            "groups": 2,
        },
        spread_by_hand(X, GROUPED_UP, None, (2, 2), (1, 0), 2, (11, 9)),
    ),
    (
        "max_pool",
        {"x": X, "kernel_sizes": ints(2, 3), "strides": ints(2, 1), "pad_type": "custom", "pad": ints(0, 0, 1, 1)},
        pool_by_hand(X, max, (2, 3), (2, 1), ((0, 0), (1, 1)), -math.inf),
    ),
    (
        "max_pool",
        {
            "x": X,
            "kernel_sizes": ints(2, 2),
            "strides": ints(2, 2),
            "pad_type": "valid",
            "pad": ZEROS,
            "ceil_mode": True,
        },
        pool_by_hand(X, max, (2, 2), (2, 2), ((0, 0), (0, 1)), -math.inf),
    ),
    (
        "avg_pool",
        {
            "x": X,
            "kernel_sizes": ints(3, 3),
            "strides": ONES,
            "pad_type": "same",
            "pad": ZEROS,
            "exclude_padding_from_average": True,
        },
        pool_by_hand(X, lambda v: sum(v) / len(v), (3, 3), (1, 1), ((1, 1), (1, 1)), None),
    ),
    (
        "l2_pool",
        {"x": X, "kernel_sizes": ints(2, 2), "strides": ints(2, 2), "pad_type": "valid", "pad": ZEROS},
        pool_by_hand(X, lambda v: math.sqrt(sum(a * a for a in v)), (2, 2), (2, 2), ((0, 0), (0, 0)), 0.0),
    ),
    (
        "linear",
        {"x": X, "weight": random(3, 5), "bias": BIAS[:3]},
        np.einsum("nchw,ow->ncho", X.astype(np.float64), random(3, 5)) + BIAS[:3],
    ),
    ("matmul", {"x": X, "y": Y, "transpose_y": True}, np.einsum("nchw,ncgw->nchg", X.astype(np.float64), Y)),
    ("batch_norm", {"x": X, "mean": V, "variance": V, "gamma": C, "beta": C, "epsilon": 1e-3}, NORM),
    (
        "instance_norm",
        {"x": X, "epsilon": 1e-3, "gamma": C, "beta": C},
        np.stack([(c - np.mean(c)) / math.sqrt(np.var(c) + 1e-3) * w + w for c, w in zip(X[0], C, strict=True)])[None],
    ),
    (
        "layer_norm",
        {"x": X, "axes": ints(-1), "epsilon": 1e-3},
        np.apply_along_axis(lambda line: (line - line.mean()) / math.sqrt(line.var() + 1e-3), 3, X),
    ),
    ("softmax", {"x": X, "axis": 1}, softmax_by_hand(X, 1)),
    ("gelu", {"x": X, "mode": "TANH_APPROXIMATION"}, each(gelu, X)),
    ("gelu", {"x": X, "mode": "EXACT"}, each(exact_gelu, X)),
    ("gelu", {"x": X, "mode": "SIGMOID_APPROXIMATION"}, each(lambda v: v * logistic(1.702 * v), X)),
    ("prelu", {"x": X, "alpha": C}, each(lambda v, a: v if v > 0 else a * v, X, C.reshape(1, 4, 1, 1))),
    (
        "softplus_parametric",
        {"x": X, "alpha": C, "beta": V},
        each(lambda v, a, b: a * math.log(1 + math.exp(b * v)), X, C.reshape(4, 1, 1), V.reshape(4, 1, 1)),
    ),
    ("cast", {"x": X, "dtype": "int32"}, each(math.trunc, X)),
    ("cast", {"x": X, "dtype": "fp16"}, X.astype(np.float16)),
    ("relu", {"x": X}, each(lambda v: max(v, 0), X)),
    ("relu6", {"x": 5 * X}, each(lambda v: min(max(v, 0), 6), 5 * X)),
    ("clamped_relu", {"x": X, "alpha": 0.1, "beta": 1.0}, each(lambda v: min(v if v > 0 else 0.1 * v, 1), X)),
    ("leaky_relu", {"x": X, "alpha": 0.1}, each(lambda v: v if v > 0 else 0.1 * v, X)),
    ("thresholded_relu", {"x": X, "alpha": 0.5}, each(lambda v: v if v >= 0.5 else 0, X)),
    ("elu", {"x": X, "alpha": 1.5}, each(lambda v: v if v > 0 else 1.5 * (math.exp(v) - 1), X)),
    ("linear_activation", {"x": X, "alpha": 2.0, "beta": -1.0}, each(lambda v: 2 * v - 1, X)),
    ("sigmoid", {"x": X}, each(logistic, X)),
    ("sigmoid", {"x": np.float32([-200, 200])}, np.array([0, 1])),
    ("sigmoid_hard", {"x": X, "alpha": 0.2, "beta": 0.5}, each(lambda v: min(max(0.2 * v + 0.5, 0), 1), X)),
    ("silu", {"x": X}, each(lambda v: v * logistic(v), X)),
    ("scaled_tanh", {"x": X, "alpha": 2.0, "beta": 0.5}, each(lambda v: 2 * math.tanh(0.5 * v), X)),
    ("softplus", {"x": X}, each(lambda v: math.log(1 + math.exp(v)), X)),
    ("softsign", {"x": X}, each(lambda v: v / (1 + abs(v)), X)),
    ("erf", {"x": X}, each(math.erf, X)),
    ("clip", {"x": X, "alpha": -0.5, "beta": 1.0}, each(lambda v: min(max(v, -0.5), 1), X)),
    ("inverse", {"x": POSITIVE, "epsilon": 0.5}, each(lambda v: 1 / (v + 0.5), POSITIVE)),
    ("log", {"x": POSITIVE, "epsilon": 0.5}, each(lambda v: math.log(v + 0.5), POSITIVE)),
    ("rsqrt", {"x": POSITIVE, "epsilon": 0.5}, each(lambda v: 1 / math.sqrt(v + 0.5), POSITIVE)),
    ("threshold", {"x": X, "alpha": 0.5}, each(lambda v: max(v, 0.5), X)),
    ("identity", {"x": X}, X),
    ("pow", {"x": POSITIVE, "y": 2.0}, each(lambda v: v**2, POSITIVE)),
    ("select", {"cond": np.array([True, False]), "a": 1.0, "b": 2.0}, np.array([1, 2])),
    *(
        (name, {"x": X}, each(function, X))
        for name, function in (
            ("tanh", math.tanh),
            ("abs", abs),
            ("ceil", math.ceil),
            ("cos", math.cos),
            ("exp", math.exp),
            ("exp2", lambda v: 2**v),
            ("floor", math.floor),
            ("sign", lambda v: math.copysign(1, v)),
            ("sin", math.sin),
            ("square", lambda v: v * v),
            ("round", round),
            ("logical_not", lambda v: not v),
        )
    ),
    ("sqrt", {"x": POSITIVE}, each(math.sqrt, POSITIVE)),
    *(
        (name, {"x": X, "y": POSITIVE}, each(function, X, POSITIVE))
        for name, function in (
            ("maximum", max),
            ("minimum", min),
            ("add", lambda a, b: a + b),
            ("sub", lambda a, b: a - b),
            ("mul", lambda a, b: a * b),
            ("real_div", lambda a, b: a / b),
            ("floor_div", lambda a, b: a // b),
            ("mod", lambda a, b: a % b),
            ("equal", lambda a, b: a == b),
            ("not_equal", lambda a, b: a != b),
            ("greater", lambda a, b: a > b),
            ("greater_equal", lambda a, b: a >= b),
            ("less", lambda a, b: a < b),
            ("less_equal", lambda a, b: a <= b),
        )
    ),
    *(
        (name, {"x": np.array([True, True, False]), "y": np.array([True, False, False])}, np.array(expected))
        for name, expected in (
            ("logical_and", [1, 0, 0]),
            ("logical_or", [1, 1, 0]),
            ("logical_xor", [0, 1, 0]),
        )
    ),
    *(
        (
            name,
            {"x": X, "axes": ints(1), "keep_dims": False},
            each(lambda *v, f=function: f(v), *(X[:, c] for c in range(4))),
        )
        for name, function in (
            ("reduce_mean", lambda v: sum(v) / 4),
            ("reduce_sum", sum),
            ("reduce_max", max),
            ("reduce_min", min),
            ("reduce_prod", math.prod),
            ("reduce_sum_square", lambda v: sum(a * a for a in v)),
            ("reduce_l2_norm", lambda v: math.hypot(*v)),
        )
    ),
    (
        "reduce_argmax",
        {"x": X, "axis": 1, "keep_dims": True},
        each(lambda *v: v.index(max(v)), *(X[:, c] for c in range(4)))[:, None],
    ),
    ("concat", {"values": [X, Y], "axis": 1}, np.stack([*X[0], *Y[0]])[None]),
    ("stack", {"values": [X, Y], "axis": 0}, np.array([X.tolist(), Y.tolist()])),
    ("split", {"x": X, "axis": 1, "split_sizes": ints(1, 3)}, [X[:, :1], X[:, 1:]]),
    ("split", {"x": X, "axis": 1, "num_splits": 2}, [X[:, :2], X[:, 2:]]),
    (
        "pad",
        {"x": X, "pad": ints(1, 0, 2, 3), "mode": "constant", "constant_val": 0.5},
        np.stack([cv2.copyMakeBorder(c, 1, 0, 2, 3, cv2.BORDER_CONSTANT, value=0.5) for c in X[0]])[None],
    ),
    (
        "pad",
        {"x": X, "pad": ints(2, 1, 1, 2), "mode": "reflect", "constant_val": 0.0},
        np.stack([cv2.copyMakeBorder(c, 2, 1, 1, 2, cv2.BORDER_REFLECT_101) for c in X[0]])[None],
    ),
    (
        "slice_by_index",
        {
            "x": X,
            "begin": ints(0, 1, 5, 2),
            "end": ints(0, 3, 0, 3),
            "stride": ints(1, 1, -2, 1),
            "begin_mask": [True, False, False, False],
            "end_mask": [True, False, True, False],
            "squeeze_mask": [False, False, False, True],
        },
        X[:, 1:3, [5, 3, 1], 2],
    ),
    ("slice_by_size", {"x": X, "begin": ints(0, 1, 2, 0), "size": ints(1, 2, -1, 5)}, X[:, 1:3, 2:]),
    ("crop", {"x": X, "crop_height": ints(1, 2), "crop_width": ints(0, 3)}, X[:, :, 1:4, :2]),
    ("reshape", {"x": X, "shape": ints(0, 2, -1)}, np.array([[X.ravel()[:60], X.ravel()[60:]]])),
    ("transpose", {"x": X, "perm": ints(0, 2, 3, 1)}, np.stack([X[0, c] for c in range(4)], -1)[None]),
    ("expand_dims", {"x": C, "axes": ints(0, -1)}, np.array([[[v] for v in C.tolist()]])),
    ("squeeze", {"x": X, "axes": ints(0)}, X[0]),
    ("tile", {"x": C, "reps": ints(2)}, np.array([*C, *C])),
    (
        "upsample_bilinear",
        {"x": X, "scale_factor_height": 2, "scale_factor_width": 3.0, "align_corners": False},
        np.stack([cv2.resize(c, (15, 12), interpolation=cv2.INTER_LINEAR) for c in X[0]])[None],
    ),
    (
        "upsample_bilinear",
        {"x": X, "scale_factor_height": 2, "scale_factor_width": 3.0, "align_corners": True},
        interpolate(X, np.linspace(0, 5, 12), np.linspace(0, 4, 15)),
    ),
    (
        "upsample_nearest_neighbor",
        {"x": X, "scale_factor_height": 2, "scale_factor_width": 3},
        np.stack([cv2.resize(c, (15, 12), interpolation=cv2.INTER_NEAREST) for c in X[0]])[None],
    ),
    (
        "resize_bilinear",
        {"x": X, "target_size_height": 12, "target_size_width": 15, "sampling_mode": "UNALIGN_CORNERS"},
        interpolate(X, HALF_PIXEL_ROWS, HALF_PIXEL_COLUMNS),
    ),
    (
        "resize_nearest_neighbor",
        {"x": X, "target_size_height": 12, "target_size_width": 15},
        np.stack([cv2.resize(c, (15, 12), interpolation=cv2.INTER_NEAREST) for c in X[0]])[None],
    ),
    (
        "constexpr_affine_dequantize",
        {
            "quantized_data": np.int8([[1, -2], [3, 4]]),
            "zero_point": np.int8([1, 2]),
            "scale": np.float32([2, 3]),
            "axis": 1,
        },
        np.array([[0, -12], [4, 6]]),
    ),
    (
        "dequantize",
        {"input": np.int8([1, -2]), "scale": np.float32(0.5), "zero_point": np.int8(1)},
        np.array([0, -1.5]),
    ),
    (
        "constexpr_lut_to_dense",  # four colors: 3, 0 | 2, 1, 3 from the lowest bits on
        {"indices": np.uint8([0b01100011, 0b11]), "lut": np.float32([10, 11, 12, 13]), "shape": ints(5)},
        np.array([13, 10, 12, 11, 13]),
    ),
    (
        "constexpr_lut_to_dense",  # one palette for either row
        {
            "indices": np.uint8([[0, 1], [1, 1]]),
            "lut": np.float32([[[[1], [2]]], [[[3], [4]]]]),
            "vector_axis": None,
        },
        np.array([[1, 2], [4, 4]]),
    ),
    (
        "constexpr_blockwise_shift_scale",
        {"data": np.int8([[1, 2, 3, 4]]), "scale": np.float32([[2, 10]]), "offset": np.int8([[1, 0]])},
        np.array([[0, 2, 30, 40]]),
    ),
    (
        "constexpr_sparse_to_dense",
        {"nonzero_data": np.float32([5, 6]), "mask": np.uint8([0b00010010]), "shape": ints(5)},
        np.array([0, 5, 0, 0, 6]),
    ),
    ("constexpr_cast", {"source_val": C, "output_dtype": "fp32"}, C),
]


@pytest.mark.parametrize("name, arguments, expected", OPERATIONS, ids=[name for name, _, _ in OPERATIONS])
def test_operation_of_a_program(name, arguments, expected):
    close(KNOWN_OPERATIONS[name](**arguments), expected)


def test_every_operation_that_is_known_has_been_tested():
    assert set(KNOWN_OPERATIONS) == {name for name, _, _ in OPERATIONS}
