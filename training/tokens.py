"""The tokenizer: CLIP's byte-level BPE, with merges learned from our own captions."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from ad_lib.embedded.networks import PROMPT_TOKENS

START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def train_tokenizer(captions: Iterable[str], vocab_size: int = 1536) -> CLIPTokenizer:
    """CLIP tokenizer for `captions`; all 256 bytes are tokens, so that any text gets through.

    CLIP gives the end token the highest id and the start token the one before; we do the same.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    learner.train_from_iterator(
        captions,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            initial_alphabet=alphabet,
            end_of_word_suffix="</w>",
            show_progress=False,
        ),
    )
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    pieces = [*alphabet, *(byte + "</w>" for byte in alphabet), *(a + b for a, b in merges)]
    vocab = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    vocab |= {START: len(vocab), END: len(vocab) + 1}
    options: Any = {"vocab": vocab, "merges": merges, "model_max_length": PROMPT_TOKENS}
    return CLIPTokenizer(**options)
