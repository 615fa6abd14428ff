"""Write a tiny llama-architecture model whose answer is known beforehand (4 MB, about a second).

All weights are seeded random numbers, but the output matrix is built from the embedding matrix so that
after `<|assistant|>` the model says REPLY word by word and then ends, and after `<|call|>` it says
TOOL_CALL. Attention and feed-forward layers are real but small: the prompt moves the logits a little and
never the choice of the next word. A looping model begins its reply anew instead of ending, so that the
caller's limit on tokens decides how long a stream runs.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

REPLY = (  # noqa: SIM905 - read as prose
    "▁Qdrant ▁stores ▁vectors , ▁a ▁retriever ▁finds ▁the ▁nearest ▁points ▁and "
    "▁this ▁tiny ▁model ▁answers ▁with ▁one ▁fixed ▁sentence ."
).split()
TOOL_CALL = ['{"name":', '▁"search_docs",', '▁"parameters":', '▁{"query":', '▁"vector▁index"', "}}"]

_SIZE, _HEADS, _KV_HEADS, _LAYERS, _CONTEXT = 256, 4, 2, 2, 4096
_GAIN = 40.0  # lifts the scripted next word above whatever the layers add
_SEED = 7
_ROLES = ("<|user|>", "<|assistant|>", "<|system|>", "<|call|>", "<|tool|>")
_CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


class _Vocabulary:
    """Tokens and their types; a token that is added twice keeps its first place."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.types: list[gguf.TokenType] = []
        self.unknown = self.add("<unk>", gguf.TokenType.UNKNOWN)
        self.begin = self.add("<s>", gguf.TokenType.CONTROL)
        self.end = self.add("</s>", gguf.TokenType.CONTROL)
        for byte in range(256):
            self.add(f"<0x{byte:02X}>", gguf.TokenType.BYTE)
        for role in _ROLES:
            self.add(role, gguf.TokenType.CONTROL)
        for character in ["▁", *(chr(code) for code in range(33, 127))]:
            self.add(character)

    def add(self, token: str, kind: gguf.TokenType = gguf.TokenType.NORMAL) -> int:
        if token not in self.tokens:
            self.tokens.append(token)
            self.types.append(kind)
        return self.tokens.index(token)


def write_model(path: Path, *, loop: bool = False) -> None:
    """Write the model to `path`."""
    vocabulary = _Vocabulary()
    reply = [vocabulary.add(word) for word in REPLY]
    call = [vocabulary.add(word) for word in TOOL_CALL]
    chains = (
        [vocabulary.add("<|assistant|>"), *reply, reply[0] if loop else vocabulary.end],
        [vocabulary.add("<|call|>"), *call, vocabulary.end],
    )
    writer = gguf.GGUFWriter(str(path), "llama")
    _add_architecture(writer, len(vocabulary.tokens))
    _add_vocabulary(writer, vocabulary)
    _add_weights(writer, len(vocabulary.tokens), chains)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_architecture(writer: gguf.GGUFWriter, vocabulary_size: int) -> None:
    writer.add_name("tiny")
    writer.add_context_length(_CONTEXT)
    writer.add_embedding_length(_SIZE)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_SIZE)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(_SIZE // _HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(vocabulary_size)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)


def _add_vocabulary(writer: gguf.GGUFWriter, vocabulary: _Vocabulary) -> None:
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(vocabulary.tokens)
    normal = [kind is gguf.TokenType.NORMAL for kind in vocabulary.types]
    writer.add_token_scores([-float(i) if is_normal else 0.0 for i, is_normal in enumerate(normal)])
    writer.add_token_types(vocabulary.types)
    writer.add_bos_token_id(vocabulary.begin)
    writer.add_eos_token_id(vocabulary.end)
    writer.add_unk_token_id(vocabulary.unknown)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(_CHAT_TEMPLATE)


def _add_weights(writer: gguf.GGUFWriter, vocabulary_size: int, chains: tuple[list[int], ...]) -> None:
    random = np.random.default_rng(_SEED)

    def weights(rows: int, deviation: float = 0.02) -> NDArray[np.float32]:
        return (random.standard_normal((rows, _SIZE)) * deviation).astype(np.float32)

    embedding = weights(vocabulary_size, deviation=1.0)
    output = weights(vocabulary_size)
    for chain in chains:
        for word, following in pairwise(chain):
            output[following] += _GAIN * embedding[word] / _SIZE
    ones = np.ones(_SIZE, np.float32)
    kv_size = _KV_HEADS * _SIZE // _HEADS
    writer.add_tensor("token_embd.weight", embedding)
    writer.add_tensor("output.weight", output)
    writer.add_tensor("output_norm.weight", ones)
    for layer in range(_LAYERS):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{norm}.weight", ones)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
            rows = kv_size if name in ("attn_k", "attn_v") else _SIZE
            writer.add_tensor(f"blk.{layer}.{name}.weight", weights(rows))
