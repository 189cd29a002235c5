# SPDX-License-Identifier: MIT
"""Which models' tensors cards may share. Pure data and one check, before anything is loaded.

llama.cpp says of some architectures that it cannot, aborts with others, and others again abort as a part of a line. So
those are named here that were tried, on two cards, whole and in lines: those of llama.cpp's own tiny models
(scripts/conformance), and ours.
"""

from __future__ import annotations

from native.errors import UnsupportedModelError
from native.layout import ModelLayout
from native.ranges import LayerRange

REMEDY = "share its layers (--split layer)"

_TRIED = """
    afmoe arcee arctic baichuan bailingmoe bailingmoe2 bloom chatglm codeshell cogvlm cohere2 cohere2moe command-r dbrx
    deci deepseek dots1 dream ernie4_5 ernie4_5-moe exaone exaone-moe exaone4 falcon gemma gemma2 gemma3 glm4 glm4moe
    gpt-oss gpt2 gptneox granite granite_swa granitemoe grovemoe hunyuan-dense hunyuan-moe hunyuan_vl hy_v3 internlm2
    jais jais2 laguna llada llada-moe llama llama4 maincoder maple mellum mimo2 minicpm mistral3 muse-glimmer nanbeige
    nemotron olmo openelm orion paddleocr pangu-embedded phi2 phi3 phimoe plamo plamo3 pockettts qwen qwen2 qwen2moe
    qwen2vl qwen3 qwen35 qwen35moe qwen3moe qwen3next qwen3vl qwen3vlmoe refact rnd1 seed_oss smallthinker smollm3
    spark2_5 stablelm starcoder starcoder2 talkie xverse
"""
_SHAREABLE = frozenset(_TRIED.split())

_SHAREABLE_WHOLE = frozenset({"deepseek4", "gemma4", "lfm2"})


def check_shareable(layout: ModelLayout, layers: LayerRange) -> None:
    """Refuses what is not known to work.

    Raises:
        UnsupportedModelError: with the architecture and the reason.
    """
    if layout.architecture in _SHAREABLE:
        return
    if layout.architecture not in _SHAREABLE_WHOLE:
        raise UnsupportedModelError(layout.architecture, f"cannot be shared by tensors; {REMEDY}")
    if len(layers) < layout.n_layer:
        raise UnsupportedModelError(
            layout.architecture, f"cannot be shared by tensors as a part of it, like layers {layers}; {REMEDY}"
        )
