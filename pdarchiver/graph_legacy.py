"""A .pdmodel file → its graph, in the words of PIR.

Sources: paddle/fluid/framework/framework.proto; paddle/phi/ops/yaml/op_compat.yaml for what the same operations are
called in either. An operation that is not listed here keeps its name, and nobody knows what it does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from pdarchiver import messages
from pdarchiver.graph import Graph, Id, Operation

_WORDS = """
abs acos asin atan ceil cos cosh erf exp expm1 floor log log10 log1p log2 reciprocal relu round rsqrt sigmoid sign sin
sinh sqrt square tan tanh atanh acosh asinh gelu elu selu silu swish mish softplus softsign softshrink leaky_relu
relu6 thresholded_relu logsigmoid tanh_shrink stanh celu assign share_data logical_not isnan_v2=isnan isinf_v2=isinf
isfinite_v2=isfinite bitwise_not hard_swish=hardswish hard_sigmoid=hardsigmoid brelu=hardtanh hard_shrink=hardshrink
cast pow scale:X,ScaleTensor clip:X,Min,Max fill_any_like=full_like fill_zeros_like=full_like:X
lookup_table_v2=embedding:Ids,W lookup_table=embedding_of_columns:Ids,W memcpy
elementwise_add=add:X,Y->Out:axis_of_second=axis elementwise_sub=subtract:X,Y->Out:axis_of_second=axis
elementwise_mul=multiply:X,Y->Out:axis_of_second=axis elementwise_div=divide:X,Y->Out:axis_of_second=axis
elementwise_max=maximum:X,Y->Out:axis_of_second=axis elementwise_min=minimum:X,Y->Out:axis_of_second=axis
elementwise_pow:X,Y->Out:axis_of_second=axis elementwise_mod=remainder:X,Y->Out:axis_of_second=axis
elementwise_floordiv=floor_divide:X,Y->Out:axis_of_second=axis elementwise_fmax=fmax:X,Y->Out:axis_of_second=axis
elementwise_fmin=fmin:X,Y->Out:axis_of_second=axis equal:X,Y->Out:axis_of_second=axis
not_equal:X,Y->Out:axis_of_second=axis less_than:X,Y->Out:axis_of_second=axis less_equal:X,Y->Out:axis_of_second=axis
greater_than:X,Y->Out:axis_of_second=axis greater_equal:X,Y->Out:axis_of_second=axis logical_and:X,Y logical_or:X,Y
logical_xor:X,Y bitwise_and:X,Y bitwise_or:X,Y bitwise_xor:X,Y where:Condition,X,Y sum=add_n:X*
dropout:X,Seed->Out:is_test prelu:X,Alpha->Out:mode reduce_sum=sum:X,#dim->Out:keepdim=keep_dim,reduce_all
reduce_mean=mean:X,#dim->Out:keepdim=keep_dim,reduce_all reduce_max=max:X,#dim->Out:keepdim=keep_dim,reduce_all
reduce_min=min:X,#dim->Out:keepdim=keep_dim,reduce_all reduce_prod=prod:X,#dim->Out:keepdim=keep_dim,reduce_all
reduce_any=any:X,#dim->Out:keepdim=keep_dim,reduce_all reduce_all=all:X,#dim->Out:keepdim=keep_dim,reduce_all
logsumexp:X,#axis->Out:keepdim,reduce_all frobenius_norm:X,#dim->Out:keepdim=keep_dim,reduce_all
p_norm:X->Out:axis,keepdim,asvector arg_max=argmax:X,#axis->Out:keepdims,flatten
arg_min=argmin:X,#axis->Out:keepdims,flatten cumsum:X,#axis->Out:flatten top_k_v2=topk:X,K->Out,Indices:axis
top_k=topk:X,K->Out,Indices argsort:X->Out,Indices:axis softmax:X->Out:axis log_softmax:X->Out:axis
matmul_v2=matmul:X,Y->Out:transpose_x=trans_x,transpose_y=trans_y
matmul:X,Y->Out:transpose_x=transpose_X,transpose_y=transpose_Y bmm:X,Y einsum:Operands*->Out:equation
mul=matmul_with_flatten:X,Y->Out:x_num_col_dims,y_num_col_dims conv2d:Input,Filter->Output
depthwise_conv2d:Input,Filter->Output conv3d:Input,Filter->Output conv2d_transpose:Input,Filter->Output
depthwise_conv2d_transpose:Input,Filter->Output conv3d_transpose:Input,Filter->Output
deformable_conv:Input,Offset,Filter,Mask->Output deformable_conv_v1=deformable_conv:Input,Offset,Filter->Output
batch_norm:X,Mean,Variance,Scale,Bias->Y:is_test,use_global_stats,trainable_statistics
sync_batch_norm=batch_norm:X,Mean,Variance,Scale,Bias->Y:is_test,use_global_stats,trainable_statistics
instance_norm:X,Scale,Bias->Y group_norm:X,Scale,Bias->Y layer_norm:X,Scale,Bias->Y:begin_norm_axis
affine_channel:X,Scale,Bias pool2d:X pool3d:X
max_pool2d_with_index:X->Out,Mask lrn:X pixel_shuffle:X pixel_unshuffle:X shuffle_channel:X space_to_depth:X
unfold:X->Y grid_sampler=grid_sample:X,Grid->Output bilinear_interp_v2=bilinear_interp:X,OutSize,SizeTensor*,Scale
nearest_interp_v2=nearest_interp:X,OutSize,SizeTensor*,Scale
bicubic_interp_v2=bicubic_interp:X,OutSize,SizeTensor*,Scale
linear_interp_v2=linear_interp:X,OutSize,SizeTensor*,Scale
trilinear_interp_v2=trilinear_interp:X,OutSize,SizeTensor*,Scale bilinear_interp:X,OutSize,SizeTensor*,Scale
nearest_interp:X,OutSize,SizeTensor*,Scale pad3d:X,Paddings pad:X->Out:paddings pad2d=pad3d:X
rnn:Input,PreState*,WeightList*,SequenceLength->Out,DropoutState,State*,Reserve transpose2=transpose:X->Out:perm=axis
transpose:X->Out:perm=axis reshape2=reshape:X,ShapeTensor*|Shape|#shape reshape:X,ShapeTensor*|Shape|#shape
flatten_contiguous_range=flatten:X->Out:start_axis,stop_axis flatten2=flatten_to_matrix:X->Out:axis
squeeze2=squeeze:X,#axes squeeze:X,#axes unsqueeze2=unsqueeze:X,AxesTensorList*|AxesTensor|#axes
unsqueeze:X,AxesTensorList*|AxesTensor|#axes expand_v2=expand:X,expand_shapes_tensor*|Shape|#shape
expand_as_v2=expand_as:X,Y tile:X,repeat_times_tensor*|RepeatTimes|#repeat_times
expand=tile:X,expand_times_tensor*|ExpandTimes|#expand_times
slice:Input,StartsTensorList*|StartsTensor|#starts,EndsTensorList*|EndsTensor|#ends->Out:axes,decrease_axis
strided_slice:Input,StartsTensorList*|StartsTensor|#starts,EndsTensorList*|EndsTensor|#ends,StridesTensorList*|StridesTensor|#strides->Out:axes,decrease_axis
concat:X*,AxisTensor|#axis split:X,~,AxisTensor|#axis->Out* stack:X*->Y:axis unstack=unbind:X->Y*:axis
unbind:X->Out*:axis flip:X->Out:axis roll:X,#shifts->Out:axis gather:X,Index,Axis|#axis gather_nd:X,Index
index_select:X,Index->Out:axis=dim index_sample:X,Index take_along_axis:Input,Index->Result:axis=Axis
one_hot_v2=one_hot:X,depth_tensor|#depth tril_triu=triu:X shape:Input size=numel:Input
fill_constant=full_with_tensor:ValueTensor,ShapeTensorList*|ShapeTensor|#shape->Out:value=str_value
fill_constant_batch_size_like=full_batch_size_like:Input->Out:shape,input_dim_idx,output_dim_idx
range=arange:Start,End,Step linspace:Start,Stop,Num increment:X yolo_box:X,ImgSize->Boxes,Scores
box_coder:PriorBox,PriorBoxVar,TargetBox->OutputBox:axis,code_type prior_box:Input,Image->Boxes,Variances
multiclass_nms3:BBoxes,Scores,RoisNum->Out,Index,NmsRoisNum multiclass_nms2=multiclass_nms3:BBoxes,Scores->Out,Index
multiclass_nms=multiclass_nms3:BBoxes,Scores matrix_nms:BBoxes,Scores->Out,Index,RoisNum where_index=nonzero:Condition
masked_select:X,Mask->Y unique:X unique_consecutive:X nms:Boxes fused_softmax_mask:X,Mask
quantize_linear:X,Scale,ZeroPoint->Y:is_test dequantize_linear:X,Scale,ZeroPoint->Y:is_test
assign_value:~->Out:int64_values,int32_values
"""
"""old[=new][:operands][->outputs][:attributes[=their old name]]; X and Out unless said. `*`: several; `#`: whole
numbers of an attribute, as a constant; `|`: the first that is there; `~`: none."""
_DENSE_TENSOR = 7


class _Entry:
    """One of the words."""

    def __init__(self, word: str) -> None:
        signature, _, results = word.partition("->")
        names, _, operands = signature.partition(":")
        outputs, _, attributes = results.partition(":")
        self.old, _, new = names.partition("=")
        self.kind = new or self.old
        self.operands = [operand.split("|") for operand in (operands or "X").split(",")]
        self.outputs = (outputs or "Out").split(",")
        pairs = (pair.partition("=") for pair in attributes.split(",") if pair)
        self.attributes = {own: old or own for own, _, old in pairs}


_KNOWN = {entry.old: entry for entry in map(_Entry, _WORDS.split())}


def read(data: bytes) -> Graph:
    """Raises ValueError and the like for bytes that are no ProgramDesc."""
    return _Reader(messages.decode("ProgramDesc", data).blocks[0]).graph


class _Reader:
    """Variables are written to more than once; each operation's outputs stand for them until the next one's."""

    def __init__(self, block: Any) -> None:
        self.graph = Graph()
        for variable in block.vars:
            if variable.type.type == _DENSE_TENSOR:
                self.graph.shapes[variable.name] = tuple(variable.type.dense_tensor.tensor.dims)
                if variable.persistable:
                    self.graph.parameters.add(variable.name)
        for operation in block.ops:
            self._operation(_Description(operation))

    def _operation(self, described: _Description) -> None:
        graph = self.graph
        if described.kind == "feed":
            name = described.outputs["Out"][0]
            graph.inputs[name] = name
        elif described.kind == "fetch":
            name = described.inputs["X"][0]
            graph.outputs[name] = name
        elif entry := _KNOWN.get(described.kind):
            self._known(entry, described)
        else:
            every = [name for names in described.outputs.values() for name in names]
            graph.operations.append(Operation(f"legacy.{described.kind}", (), every))

    def _known(self, entry: _Entry, described: _Description) -> None:
        inputs = [self._operand(choices, described) for choices in entry.operands]
        outputs: list[Id | list[Id]] = []
        for output in entry.outputs:
            names = described.outputs.get(output.rstrip("*"), [])
            outputs.append([*names] if output.endswith("*") else names[0] if names else "")
        attributes = {own: described.attributes.get(old) for own, old in entry.attributes.items()}
        self.graph.operations.append(Operation(entry.kind, inputs, outputs, attributes))

    def _operand(self, choices: list[str], described: _Description) -> Id | list[Id] | None:
        for choice in choices:
            if choice.startswith("#"):
                return self._constant(described.attributes.get(choice[1:]))
            names = described.inputs.get(choice.rstrip("*"), [])
            if names:
                return [*names] if choice.endswith("*") else names[0]
        return None

    def _constant(self, value: Any) -> Id | None:
        if value is None or value is ...:
            return None
        numbers = value if isinstance(value, list) else [value]
        name = f"constant {len(self.graph.operations)}"
        self.graph.shapes[name] = (len(numbers),)
        self.graph.operations.append(Operation("full_int_array", (), (name,), {"value": numbers}))
        return name


class _Description:
    """An OpDesc."""

    def __init__(self, operation: Any) -> None:
        self.kind: str = operation.type
        self.inputs, self.outputs = (
            {named.parameter: list(named.arguments) for named in side} for side in (operation.inputs, operation.outputs)
        )
        self._attributes = operation.attrs

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """Whole numbers, truths and texts; `...` for others, and for what is only known when the model runs."""
        return {given.name: _ATTRIBUTES.get(given.type, _unread)(given) for given in self._attributes}


def _unread(_: Any) -> Any:
    return ...


_ATTRIBUTES: dict[int, Callable[[Any], Any]] = {
    0: lambda given: given.i,
    2: lambda given: given.s,
    3: lambda given: list(given.ints),
    6: lambda given: given.b,
    9: lambda given: given.l,
    11: lambda given: list(given.longs),
}
"""By AttrType: INT, STRING, INTS, BOOLEAN, LONG, LONGS."""
