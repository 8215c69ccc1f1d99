"""How do labels flow through each ATen operator? FLOW: the file to edit for a new operator."""

from __future__ import annotations

from typing import Any

import torch

from edgel0.mixing import (
    addmm,
    attention,
    channelwise,
    convolution,
    embedding,
    group_norm,
    instance_norm,
    layer_norm,
    linear,
    matmul,
    recurrent,
)
from edgel0.moving import (
    cat,
    expand,
    glu,
    index,
    index_put,
    move,
    pad,
    patches,
    reshape,
    scatter,
    stack,
    unpatch,
    unpool,
)
from edgel0.rules import Rule, along_axis, pointwise, reduce, spatial, triangle, unknown

aten = torch.ops.aten


def _rows(rule: Rule, names: str) -> dict[Any, Rule]:
    """One row per operator; a name that torch does not have is an error at import."""
    return {getattr(aten, name): rule for name in names.split()}


FLOW: dict[Any, Rule] = {
    **_rows(
        pointwise,
        "abs acos acosh add addcdiv addcmul alias asin asinh atan atan2 atanh bitwise_and bitwise_not "
        "bitwise_or ceil celu clamp clamp_max clamp_min clip clone contiguous copy cos cosh detach div divide "
        "dropout elu eq erf erfc exp exp2 expm1 feature_dropout floor floor_divide fmax fmin fmod frac ge "
        "gelu gt hardshrink hardsigmoid hardswish hardtanh isfinite isinf isnan le leaky_relu lerp log log10 "
        "log1p log2 log_sigmoid logit logical_and logical_not logical_or logical_xor lt masked_fill maximum "
        "minimum mish mul multiply ne neg pow reciprocal relu relu6 remainder round rsqrt rsub selu sigmoid "
        "sign silu sin sinh softplus softshrink sqrt square sub subtract tan tanh threshold to true_divide "
        "trunc where xlogy _to_copy float_power nan_to_num positive rrelu hypot logaddexp alpha_dropout fill "
        "feature_alpha_dropout",
    ),
    **_rows(reshape, "flatten reshape squeeze unflatten _unsafe_view unsqueeze view"),
    **_rows(expand, "broadcast_to expand"),
    **_rows(triangle, "tril triu"),
    **_rows(scatter, "select_scatter slice_scatter"),
    **_rows(
        move,
        "channel_shuffle chunk diagonal flip movedim moveaxis narrow permute pixel_shuffle pixel_unshuffle "
        "repeat repeat_interleave roll rot90 select slice split split_with_sizes swapaxes swapdims t "
        "tensor_split tile transpose unbind unfold unsafe_chunk unsafe_split mT numpy_T gather take_along_dim",
    ),
    **_rows(
        reduce,
        "all amax amin any argmax argmin linalg_vector_norm logsumexp max mean median min prod std std_mean "
        "sum var var_mean count_nonzero linalg_norm",
    ),
    **_rows(along_axis, "argsort cumprod cumsum log_softmax softmax sort topk"),
    **_rows(
        spatial,
        "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d "
        "adaptive_max_pool3d avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool2d_with_indices "
        "max_pool3d max_pool3d_with_indices upsample_bicubic2d upsample_bilinear2d upsample_linear1d "
        "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d _upsample_nearest_exact2d",
    ),
    **_rows(convolution, "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution"),
    **_rows(matmul, "bmm matmul mm"),
    **_rows(addmm, "addmm baddbmm"),
    **_rows(index, "index index_select"),
    aten.view.dtype: unknown,
    aten.max.other: pointwise,
    aten.min.other: pointwise,
    aten.linear: linear,
    aten.embedding: embedding,
    aten.embedding_bag: embedding,
    aten.scaled_dot_product_attention: attention,
    aten.lstm.input: recurrent,
    aten.gru.input: recurrent,
    aten.rnn_tanh.input: recurrent,
    aten.rnn_relu.input: recurrent,
    aten.cat: cat,
    aten.concat: cat,
    aten.concatenate: cat,
    aten.stack: stack,
    aten.pad: pad,
    aten.constant_pad_nd: pad,
    aten.glu: glu,
    aten.index_put: index_put,
    aten.im2col: patches,
    aten.col2im: unpatch,
    aten.max_unpool2d: unpool,
    aten.max_unpool3d: unpool,
    aten.batch_norm: channelwise,
    aten._native_batch_norm_legit.no_stats: channelwise,
    aten._native_batch_norm_legit_no_training: channelwise,
    aten.prelu: channelwise,
    aten.instance_norm: instance_norm,
    aten.layer_norm: layer_norm,
    aten.native_layer_norm: layer_norm,
    aten.rms_norm: layer_norm,
    aten.group_norm: group_norm,
}
