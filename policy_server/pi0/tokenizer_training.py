"""How the nano preset's tokenizer is made from a list of sentences. Run as a module, it writes the file again:

python -m policy_server.pi0.tokenizer_training
"""

import io
from collections.abc import Sequence
from pathlib import Path

import sentencepiece

ASSETS = Path(__file__).parent / "assets"
SENTENCES = ASSETS / "nano_sentences.txt"
MODEL = ASSETS / "nano_tokenizer.model"


def train(sentences: Sequence[str], *, vocabulary_size: int) -> bytes:
    """A SentencePiece model as bytes. Text the sentences never had falls back to bytes, so nothing is unknown.

    Laid out as PaliGemma's: pad 0, end 1, begin 2, no space put in front, the newline a piece of its own.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocabulary_size,
        hard_vocab_limit=False,
        character_coverage=1.0,
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        user_defined_symbols=["\n"],
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def main() -> None:
    """Write the asset from its sentences."""
    MODEL.write_bytes(train(SENTENCES.read_text(encoding="utf-8").splitlines(), vocabulary_size=512))
    print(f"wrote {MODEL}")


if __name__ == "__main__":
    main()
