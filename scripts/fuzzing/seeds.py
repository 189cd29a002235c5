# SPDX-License-Identifier: MIT
"""What fuzzing starts from: headers of good models of every kind, what was found before, and messages in order."""

from __future__ import annotations

import functools
import struct
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from gguf import GGUFWriter

from native import read_layout
from protos import weights
from protos.caravan.v1 import control_pb2, frame_pb2, weights_pb2
from protos.codec import encode_tensor
from tests.model_kinds import KINDS
from tests.models import split_model, write_model

# What was found before, with its test.
_FOUND = Path("tests/native/hostile_headers")
_VOCABULARIES = ("llama", "gpt2", "gemma4", "bert", "t5", "rwkv", "plamo2")
_TOKENS = ("<unk>", "<s>", "</s>", "<0x0A>", "\n", "a", "b", "ab", "\u2581", "\u010a", "<|end|>")


@functools.cache
def good_headers() -> Sequence[bytes]:
    """Headers of tests' models of every architecture, and with every kind of vocabulary."""
    with tempfile.TemporaryDirectory() as folder:
        whole = write_model(Path(folder) / "text.gguf", "llama", n_layer=1, with_text=True)
        paths = [
            *(write_model(Path(folder) / f"{kind}.gguf", kind) for kind in KINDS),
            *(_write_vocabulary(Path(folder) / f"{kind}.vocabulary.gguf", kind) for kind in _VOCABULARIES),
            whole,
        ]
        headers = [path.read_bytes()[: read_layout(path).header_bytes[0]] for path in paths]
        parts = split_model(whole, Path(folder) / "split")
        sizes = read_layout(parts[0]).header_bytes
        headers += [part.read_bytes()[:size] for part, size in zip(parts, sizes, strict=True)]
    return headers


def seeds(target: str) -> Iterator[tuple[str, bytes]]:
    """Inputs of a target, with names that say what they are."""
    if target == "peer":
        yield from _messages()
        return
    for at, data in enumerate(good_headers()):
        yield f"good-{at}", _offered(data) if target == "offer" else data
    for path in sorted(_FOUND.iterdir()):
        yield path.stem, _offered(path.read_bytes()) if target == "offer" else path.read_bytes()


def _offered(header: bytes) -> bytes:
    """As targets.py reads it."""
    return struct.pack("<QQQBB", len(header) + (1 << 30), 0, 4096, 0, 0) + header


def _write_vocabulary(path: Path, kind: str) -> Path:
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_embedding_length(32)
    writer.add_tokenizer_model(kind)
    writer.add_token_list(_TOKENS)
    writer.add_token_scores([0.0] * len(_TOKENS))
    writer.add_token_types([1] * len(_TOKENS))
    writer.add_token_merges(["a b"])
    writer.add_array("tokenizer.ggml.precompiled_charsmap", [4, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _messages() -> Iterator[tuple[str, bytes]]:
    """A number that says who reads them (targets.py), and what is read."""
    hello = weights_pb2.WeightsHello(role=weights_pb2.WEIGHTS_ROLE_ASKER, identity="0" * 64, session_id="s", epoch=1)
    ask = weights_pb2.WeightsAsk(tensor=0, piece=weights_pb2.Piece(offset=2, n_bytes=6))
    piece = weights_pb2.WeightsPiece(tensor=0, piece=weights_pb2.Piece(n_bytes=8))
    digest = weights_pb2.WeightsPiece(tensor=0, hash=bytes(32))
    address = weights_pb2.WeightAddress(url="https://host:8080/a.gguf?key=1", n_bytes=9, tag='"1"', version="2")
    where = weights_pb2.WeightsPiece(tensor=0, address=address)
    yield "asks", b"\0" + weights.MAGIC + _framed(hello) + _framed(ask) * 3
    yield "answers", b"\1" + _framed(piece) + bytes(8) + _framed(digest) + _framed(where)
    for first, last, status in ((100, 101, "206 Partial Content"), (102, 109, "206 Partial Content"), (0, 0, "403 No")):
        about = f'Content-Range: bytes {first}-{last}/1000\r\nETag: "1"\r\nContent-Length: {last - first + 1}'
        body = "x" * (last - first + 1)
        yield f"served-{first}", b"\6" + f"HTTP/1.1 {status}\r\n{about}\r\n\r\n{body}".encode()
    yield "redirects", b"\6HTTP/1.1 302 There\r\nLocation: http://other.example/m\r\nContent-Length: 0\r\n\r\n"
    for number in (weights.MESSAGE_LIMIT_BYTES, weights.MESSAGE_LIMIT_BYTES + 1, (1 << 32) - 1):
        yield f"length-{number}", b"\1" + struct.pack("<I", number)
    context = control_pb2.ContextParams(
        n_ctx_seq=64, n_seq_max=2, n_batch=32, n_ubatch=32, kv_type_k="f16", kv_type_v="f16"
    )
    context.flash_attention = control_pb2.FLASH_ATTENTION_AUTO
    model = control_pb2.ModelReference(path="/m.gguf", identity="0" * 64)
    stage = control_pb2.StageSpec(model=model, layer_end=2, context=context)
    peer = control_pb2.WeightPeer(worker="w", address="127.0.0.1:50001", held_tensors=b"\3")
    sources = control_pb2.WeightSources(peers=[peer], coordinator_gives=True, addresses=[address])
    sources.hashes.add(tensor=0, hash=bytes(32))
    load = control_pb2.LoadRequest(session_id="s", epoch=1, stage=stage, sources=sources)
    run = control_pb2.BenchmarkRun(layer_end=2)
    benchmark = control_pb2.BenchmarkRequest(model=model, context=context, runs=[run], batch_sizes=[1, 8], limit_s=1)
    yield "load", b"\2" + load.SerializeToString()
    yield "benchmark", b"\3" + benchmark.SerializeToString()
    yield "first-frame", b"\4" + _frame(sampled=True).SerializeToString()
    yield "later-frame", b"\5" + _frame(crossing=encode_tensor("h", "f32", (8, 2), bytes(64))).SerializeToString()


def _frame(crossing: frame_pb2.Tensor | None = None, *, sampled: bool = False) -> frame_pb2.FeedRequest:
    frame = frame_pb2.Frame(session_id="s", epoch=1, tokens=[1, 2], positions=[0, 1], seq_ids=[0, 0])
    frame.outputs.add(row=1, sample=True, logits=True)
    if crossing is not None:
        frame.crossing.append(crossing)
    if sampled:
        params = frame_pb2.SamplingParams(temperature=1, logprobs=True, n_top_logprobs=2, grammar='root ::= "a"')
        params.logit_bias.add(token=1, bias=-1)
        frame.sampler_operations.add().open.CopyFrom(
            frame_pb2.SamplerOpen(seq_id=0, params=params, prompt_tokens=[1, 2])
        )
        frame.kv_operations.add().remove.CopyFrom(frame_pb2.KvRemove(seq_id=0, start=0, end=-1))
        frame.kv_operations.add().copy.CopyFrom(frame_pb2.KvCopy(target_seq_id=1, end=-1))
    return frame_pb2.FeedRequest(frame=frame)


def _framed(message: weights_pb2.WeightsHello | weights_pb2.WeightsAsk | weights_pb2.WeightsPiece) -> bytes:
    data = message.SerializeToString()
    return struct.pack("<I", len(data)) + data
