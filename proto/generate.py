"""Write caffestat/schema/caffe_pb2.py from proto/caffe.proto; with --check, only say whether it is current.

Needs protoc from grpcio-tools. protoc's own Python output is not used: it registers the messages in the process-wide
descriptor pool, where a pycaffe in the same process has already put its own.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from google.protobuf import descriptor_pb2

HERE = Path(__file__).resolve().parent
SOURCE = HERE / "caffe.proto"
TARGET = HERE.parent / "caffestat" / "schema" / "caffe_pb2.py"
BYTES_PER_LINE = 48

TEMPLATE = '''\
"""Caffe's message classes. Made from proto/caffe.proto by proto/generate.py (`make proto`); do not edit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.internal import enum_type_wrapper

__all__ = [
{exports}
]

_FILE = bytes.fromhex(
{descriptor}
)

# A pool of its own, since a pycaffe in the same process puts messages of the same names into the default pool.
_POOL = descriptor_pool.DescriptorPool()
_POOL.AddSerializedFile(_FILE)


def _class(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(name))


def _enum(name: str) -> Any:
    return enum_type_wrapper.EnumTypeWrapper(_POOL.FindEnumTypeByName(name))


{enums}

# The classes come into being at run time; to a type checker each is a class with any attributes.
# mypy: disallow-subclassing-any=False
if TYPE_CHECKING:

{stubs}
else:
{classes}
'''


def describe(source: Path) -> descriptor_pb2.FileDescriptorProto:
    """The descriptor of a .proto file, without what no reader needs."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set"
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{source.parent}", f"--descriptor_set_out={out}"]
        subprocess.run([*command, source.name], check=True)
        described = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file[0]
    for message in described.message_type:
        for field in message.field:
            field.ClearField("json_name")
    return described


def enum_lines(package: str, enum: descriptor_pb2.EnumDescriptorProto) -> list[str]:
    values = [f"{value.name} = {value.number}" for value in enum.value]
    return [f'{enum.name} = _enum("{package}.{enum.name}")', *values]


def export_order(name: str) -> tuple[bool, str]:
    """Constants before classes, as ruff sorts `__all__`."""
    return not name.isupper(), name


def render(described: descriptor_pb2.FileDescriptorProto) -> str:
    """The text of the module."""
    data = described.SerializeToString(deterministic=True)
    chunks = [data[i : i + BYTES_PER_LINE].hex() for i in range(0, len(data), BYTES_PER_LINE)]
    names = sorted(message.name for message in described.message_type)
    enum_names = [name for enum in described.enum_type for name in (enum.name, *(v.name for v in enum.value))]
    return TEMPLATE.format(
        exports="\n".join(f'    "{name}",' for name in sorted([*names, *enum_names], key=export_order)),
        descriptor="\n".join(f'    "{chunk}"' for chunk in chunks),
        enums="\n".join(line for enum in described.enum_type for line in enum_lines(described.package, enum)),
        stubs="\n\n".join(f"    class {name}(Any): ..." for name in names) + "\n",
        classes="\n".join(f'    {name} = _class("{described.package}.{name}")' for name in names),
    )


def main(arguments: list[str]) -> int:
    text = render(describe(SOURCE))
    if "--check" not in arguments:
        TARGET.write_text(text)
    elif TARGET.read_text() != text:
        print(f"{TARGET.name} is not what {SOURCE.name} gives; run `make proto`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
