# SPDX-License-Identifier: MIT
"""The generated stubs are those of the .proto files, and the .proto files keep Buf's STANDARD rules."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor import EnumDescriptor, FileDescriptor

from protos.caravan.v1 import control_pb2, error_pb2, frame_pb2, weights_pb2

_ROOT = Path(__file__).resolve().parents[2]
_FILES = [control_pb2.DESCRIPTOR, error_pb2.DESCRIPTOR, frame_pb2.DESCRIPTOR, weights_pb2.DESCRIPTOR]


def _upper_snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).upper()


def test_the_generated_stubs_are_current() -> None:
    script = _ROOT / "scripts" / "generate_protos"
    check = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert check.returncode == 0, check.stderr


def test_every_proto_file_is_looked_at_here() -> None:
    on_disk = {path.relative_to(_ROOT / "protos").as_posix() for path in _ROOT.glob("protos/**/*.proto")}
    assert on_disk == {file.name for file in _FILES}


@pytest.mark.parametrize("file", _FILES, ids=lambda file: file.name)
def test_a_file_lies_in_the_folder_of_its_versioned_package(file: FileDescriptor) -> None:
    assert file.package == "caravan.v1"
    assert file.name.rpartition("/")[0] == file.package.replace(".", "/")


@pytest.mark.parametrize("file", _FILES, ids=lambda file: file.name)
def test_messages_and_fields_are_named_as_buf_wants(file: FileDescriptor) -> None:
    for message in file.message_types_by_name.values():
        assert re.fullmatch(r"([A-Z][a-z0-9]*)+", message.name)
        for field in message.fields:
            assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", field.name), f"{message.name}.{field.name}"


@pytest.mark.parametrize(
    "enum", [enum for file in _FILES for enum in file.enum_types_by_name.values()], ids=lambda enum: enum.name
)
def test_an_enum_starts_unspecified_and_its_values_carry_its_name(enum: EnumDescriptor) -> None:
    # DType is the one name of two capitals in a row; its values read DTYPE_F32.
    prefix = "DTYPE" if enum.name == "DType" else _upper_snake(enum.name)
    assert enum.values_by_number[0].name == f"{prefix}_UNSPECIFIED"
    assert all(value.name.startswith(f"{prefix}_") for value in enum.values)
    assert len(enum.values_by_number) == len(enum.values)


@pytest.mark.parametrize("file", _FILES, ids=lambda file: file.name)
def test_every_call_has_its_own_request_and_response(file: FileDescriptor) -> None:
    for service in file.services_by_name.values():
        assert service.name.endswith("Service")
        for call in service.methods:
            assert call.input_type.full_name == f"{file.package}.{call.name}Request"
            assert call.output_type.full_name == f"{file.package}.{call.name}Response"
