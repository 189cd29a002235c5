# SPDX-License-Identifier: MIT
"""Tests of protos/discovery.py: a record survives zeroconf's own TXT format, and garbage is named as such."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zeroconf import ServiceInfo

from protos.contract import CONTRACT_VERSION
from protos.discovery import SERVICE_TYPE, RecordError, WorkerRecord

_RECORD = WorkerRecord(
    name="mira-CUDA0",
    instance_id="0123456789abcdef",
    host="192.0.2.7",
    port=50051,
    contract_version=CONTRACT_VERSION,
    llama_cpp="b8000 (0123abc)",
    device="CUDA0",
)
_PROPERTIES: dict[bytes, bytes | None] = {key.encode(): value for key, value in _RECORD.to_properties().items()}


def _read(properties: dict[bytes, bytes | None], host: str = "192.0.2.7", port: int = 50051) -> WorkerRecord:
    return WorkerRecord.from_properties(properties, host=host, port=port)


def test_a_record_survives_the_txt_format_of_zeroconf() -> None:
    sent = ServiceInfo(SERVICE_TYPE, _RECORD.service_name, port=50051, properties=_RECORD.to_properties())
    received = ServiceInfo(SERVICE_TYPE, _RECORD.service_name, port=50051, properties=sent.text)
    assert _read(received.properties) == _RECORD


def test_a_member_shows_its_cluster_and_a_worker_of_none_says_nothing_of_one() -> None:
    member = dataclasses.replace(_RECORD, cluster="0123456789abcdef")
    shown = {key.encode(): value for key, value in member.to_properties().items()}
    assert _read({**shown}) == member
    assert shown.keys() - _PROPERTIES.keys() == {b"cluster"}
    with pytest.raises(RecordError, match="cluster"):
        _read({**shown, b"cluster": b"a\x1b[31m"})


def test_properties_of_a_newer_version_are_ignored() -> None:
    assert _read({**_PROPERTIES, b"colour": b"red", b"flag": None}) == _RECORD


def test_another_contract_version_is_read_for_the_reader_to_judge() -> None:
    assert _read({**_PROPERTIES, b"contract": b"2"}).contract_version == "2"


def test_an_address_is_a_grpc_target() -> None:
    assert _RECORD.address == "192.0.2.7:50051"
    assert dataclasses.replace(_RECORD, host="fd00::7").address == "[fd00::7]:50051"


@pytest.mark.parametrize("key", sorted(_PROPERTIES))
@pytest.mark.parametrize("value", [None, b"", b"\xff\xfe", b"a\nb", b"a\x00", b"a\x1b[31m", b"x" * 201])
def test_a_property_that_is_missing_or_garbage_is_named(key: bytes, value: bytes | None) -> None:
    with pytest.raises(RecordError, match=key.decode()):
        _read({**_PROPERTIES, key: value})
    with pytest.raises(RecordError, match=f"no {key.decode()}"):
        _read({other: kept for other, kept in _PROPERTIES.items() if other != key})


@pytest.mark.parametrize(
    ("host", "port"), [("", 1), ("h", 0), ("h", -1), ("h", 65536), ("a b", 1), ("a\n", 1), ("h" * 254, 1)]
)
def test_an_address_that_cannot_be_is_refused(host: str, port: int) -> None:
    with pytest.raises(RecordError, match="record's"):
        _read(_PROPERTIES, host, port)


@pytest.mark.parametrize(
    "record",
    [
        dataclasses.replace(_RECORD, name="mira.local"),
        dataclasses.replace(_RECORD, name=""),
        dataclasses.replace(_RECORD, device="x" * 201),
        dataclasses.replace(_RECORD, device="ü" * 101),
        dataclasses.replace(_RECORD, instance_id=""),
        dataclasses.replace(_RECORD, llama_cpp="a\nb"),
    ],
)
def test_a_record_that_others_would_refuse_is_not_announced(record: WorkerRecord) -> None:
    with pytest.raises(RecordError):
        record.to_properties()


@given(
    st.dictionaries(st.sampled_from(sorted(_PROPERTIES)) | st.binary(max_size=20), st.none() | st.binary(max_size=260)),
    st.text(max_size=10),
    st.integers(),
)
def test_any_record_is_a_worker_that_could_announce_itself_or_a_record_error(
    properties: dict[bytes, bytes | None], host: str, port: int
) -> None:
    try:
        record = _read({**_PROPERTIES, **properties}, host, port)
    except RecordError:
        return
    announced = {key.encode(): value for key, value in record.to_properties().items()}
    assert _read(dict(announced), record.host, record.port) == record
