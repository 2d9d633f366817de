"""Write the modules of messages from the .proto files; with --check, only say whether they are current.

proto/caffe.proto becomes caffestat/schema/caffe_pb2.py, and each proto/forks/NAME.proto schema/forks/NAME_pb2.py.

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
CAFFE = HERE / "caffe.proto"
SCHEMA = HERE.parent / "caffestat" / "schema"
BYTES_PER_LINE = 48

TEMPLATE = '''\
"""{title}

Made from {source} by proto/generate.py (`make proto`); do not edit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

{imports}

__all__ = [
{exports}
]

_FILE = bytes.fromhex(
{descriptor}
)

{pool}
_POOL.AddSerializedFile(_FILE)


def _class(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(name))

{enums}
# The classes come into being at run time; to a type checker each is a class with any attributes.
# mypy: disallow-subclassing-any=False
if TYPE_CHECKING:

{stubs}
else:
{classes}
'''

OWN_POOL = (
    "Caffe's message classes.",
    """\
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.internal import enum_type_wrapper""",
    """\
# A pool of its own, since a pycaffe in the same process puts messages of the same names into the default pool.
_POOL = descriptor_pool.DescriptorPool()""",
)
FORK_POOL = (
    "What a fork adds to Caffe's messages.",
    """\
from google.protobuf import message_factory

from caffestat.schema import caffe_pb2""",
    "_POOL = caffe_pb2._POOL",
)  # their enums stand inside of messages


def describe(source: Path) -> descriptor_pb2.FileDescriptorProto:
    """The descriptor of a .proto file, without what no reader needs."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set"
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{HERE}", f"--descriptor_set_out={out}"]
        subprocess.run([*command, str(source.relative_to(HERE))], check=True)
        described = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file[0]
    for message in described.message_type:
        for field in message.field:
            field.ClearField("json_name")
    return described


ENUMS = """
def _enum(name: str) -> Any:
    return enum_type_wrapper.EnumTypeWrapper(_POOL.FindEnumTypeByName(name))


{}
"""


def enum_lines(package: str, enum: descriptor_pb2.EnumDescriptorProto) -> list[str]:
    values = [f"{value.name} = {value.number}" for value in enum.value]
    return [f'{enum.name} = _enum("{package}.{enum.name}")', *values]


def export_order(name: str) -> tuple[bool, str]:
    """Constants before classes, as ruff sorts `__all__`."""
    return not name.isupper(), name


def render(source: Path) -> str:
    """The text of the module that a .proto file becomes."""
    described = describe(source)
    title, imports, pool = OWN_POOL if source == CAFFE else FORK_POOL
    data = described.SerializeToString(deterministic=True)
    chunks = [data[i : i + BYTES_PER_LINE].hex() for i in range(0, len(data), BYTES_PER_LINE)]
    names = sorted(message.name for message in described.message_type)
    enum_names = [name for enum in described.enum_type for name in (enum.name, *(v.name for v in enum.value))]
    enums = "\n".join(line for enum in described.enum_type for line in enum_lines(described.package, enum))
    return TEMPLATE.format(
        title=title,
        source=source.relative_to(HERE.parent).as_posix(),
        imports=imports,
        pool=pool,
        exports="\n".join(f'    "{name}",' for name in sorted([*names, *enum_names], key=export_order)),
        descriptor="\n".join(f'    "{chunk}"' for chunk in chunks),
        enums=ENUMS.format(enums) if enums else "",
        stubs="\n\n".join(f"    class {name}(Any): ..." for name in names) + "\n",
        classes="\n".join(f'    {name} = _class("{described.package}.{name}")' for name in names),
    )


def targets() -> dict[Path, Path]:
    """The module of each .proto file."""
    forks = sorted((HERE / "forks").glob("*.proto"))
    return {CAFFE: SCHEMA / "caffe_pb2.py", **{fork: SCHEMA / "forks" / f"{fork.stem}_pb2.py" for fork in forks}}


def main(arguments: list[str]) -> int:
    current = True
    for source, target in targets().items():
        text = render(source)
        if "--check" not in arguments:
            target.write_text(text)
        elif not target.exists() or target.read_text() != text:
            print(f"{target.name} is not what {source.name} gives; run `make proto`", file=sys.stderr)
            current = False
    return 0 if current else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
