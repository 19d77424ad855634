"""Message classes of proto/*.proto, made at import from the descriptor set the build wrote: no generated Python."""
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from . import paths


def _load():
    files = descriptor_pb2.FileDescriptorSet()
    with open(paths.data_file("thunder.desc", "proto"), "rb") as f:
        files.ParseFromString(f.read())
    pool = descriptor_pool.DescriptorPool()
    names = {}
    for file in files.file:
        pool.Add(file)
    for file in files.file:
        for message in file.message_type:
            full = f"{file.package}.{message.name}"
            names[message.name] = message_factory.GetMessageClass(pool.FindMessageTypeByName(full))
    return names


globals().update(_load())

NONE = 0xFFFFFFFF

# Numbers of dtype.def, column wire, by torch's names.
DTYPES = {name: number for number, name in enumerate(
    ("bool", "uint8", "int8", "int16", "int32", "int64", "uint32", "uint64", "float16", "bfloat16", "float32", "float64",
     "float8_e4m3fn", "float8_e5m2", "complex64", "complex128"), start=1)}

(INPUT_USER, INPUT_PARAMETER, INPUT_BUFFER, INPUT_STATE, INPUT_HYPER, INPUT_SEED, INPUT_OFFSET, INPUT_INTEGER, INPUT_TANGENT,
 INPUT_ACCUMULATOR, INPUT_SAVED) = range(11)
(OUTPUT_FRESH, OUTPUT_INPUT, OUTPUT_VIEW_OF_INPUT, OUTPUT_VIEW_OF_OUTPUT, OUTPUT_WRITTEN, OUTPUT_GRADIENT,
 OUTPUT_SAVED) = range(7)
(ATTR_INT, ATTR_FLOAT, ATTR_BOOL, ATTR_STRING, ATTR_DTYPE, ATTR_GRAPH, ATTR_INTS, ATTR_BOOLS) = range(1, 9)
(DIM_CONST, DIM_SYMBOL, DIM_ADD, DIM_SUB, DIM_MUL, DIM_FLOORDIV, DIM_MOD, DIM_MIN, DIM_MAX) = range(9)
FLAG_WEAK, FLAG_HOST = 1, 2
INPUT_DONATED, INPUT_REQUIRES_GRAD = 1, 2
OP_NO_GRAD = 1
