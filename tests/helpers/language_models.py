"""Tiny language models, written to a folder as the real ones are laid out."""

from pathlib import Path

WORDS = (
    "the a robot arm picks up red cup pours hot coffee into and stacks blue blocks on table opens drawer wipes "
    "kitchen slowly then"
).split()
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def write_embedder(folder: Path) -> str:
    """Write a BERT of one layer for sentence-transformers, and return its folder."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    _write_tokenizer(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(_SPECIAL) + len(WORDS), **sizes)).save_pretrained(folder)
    return str(folder)


def write_summarizer(folder: Path, summaries: dict[str, str]) -> str:
    """Write a BART of one layer that has learned the summaries of some texts, and return its folder."""
    import torch
    from transformers import BartConfig, BartForConditionalGeneration

    torch.manual_seed(0)
    tokenizer = _write_tokenizer(folder)
    layers = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("layers", 1), ("ffn_dim", 32))}
    layers |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 2}
    config = BartConfig(
        vocab_size=len(_SPECIAL) + len(WORDS),
        d_model=32,
        max_position_embeddings=200,
        dropout=0.0,
        forced_eos_token_id=3,
        **layers,
        **special,
    )
    network = BartForConditionalGeneration(config)
    texts = tokenizer(list(summaries), padding=True, return_tensors="pt")
    wanted = tokenizer(list(summaries.values()), padding=True, return_tensors="pt")["input_ids"]
    wanted[wanted == tokenizer.pad_token_id] = -100
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        network(input_ids=texts["input_ids"], attention_mask=texts["attention_mask"], labels=wanted).loss.backward()
        optimizer.step()
    network.save_pretrained(folder)
    return str(folder)


def _write_tokenizer(folder: Path):
    """Write and return a tokenizer that knows `WORDS`, each as one token."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate([*_SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="[MASK]", **names)
    made.save_pretrained(folder)
    return made
