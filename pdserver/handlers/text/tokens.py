"""Texts → token ids, through the `tokenizers` library: the only module that imports it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from pdserver.errors import ArchiveUnusable, ConfigError, InvalidRequest, LoadFailed
from pdserver.formats.values import shown
from pdserver.handlers.runtime.ranking import Softmax, TopK

try:
    from tokenizers import Encoding, Tokenizer, normalizers, pre_tokenizers, processors
    from tokenizers import models as token_models
except ImportError as error:
    raise LoadFailed("BERT's texts need the tokenizers library: pip install tokenizers") from error

TOKENIZER_FILE = "tokenizer.json"
VOCABULARY_FILE = "vocab.txt"
DEFAULT_MAX_LENGTH = 512
_PAD_TOKENS = ("[PAD]", "<pad>")


class TextSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The section `text` of a model's own YAML."""

    max_length: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)] | None = None
    """In tokens, special ones included; longer texts are cut. None: the model's fixed length, else what
    tokenizer.json says, else 512."""
    padding: Literal["longest", "none"] = "longest"
    """longest: texts of a batch are filled up to the longest of them. none: only those of equal length run together,
    for models without a mask."""
    pad_to_multiple: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 1
    pad_token: str | None = None
    """None: what tokenizer.json says, else [PAD] or <pad>."""
    lowercase: bool = True
    """With vocab.txt only; a tokenizer.json says so itself."""
    top_k: TopK = 5
    softmax: Softmax = "auto"


@dataclass(frozen=True)
class Padding:
    """What fills a row up: the token's id and the segment it counts to."""

    id: int
    type_id: int


@dataclass(frozen=True)
class Tokens:
    """One row of a model's inputs, before it is filled up."""

    ids: list[int]
    type_ids: list[int]
    """Which of two texts a token belongs to."""


@dataclass(frozen=True)
class Word:
    """A piece of a text, and which tokens it is: `start` to `stop`."""

    text: str
    start: int
    stop: int


class Texts:
    """A tokenizer, ready for use. `fixed_length` is the length that the model takes and no other, if it has one.

    Raises ArchiveUnusable when `directory` has no tokenizer or a damaged one, ConfigError for settings that do not
    fit it.
    """

    def __init__(self, directory: Path, settings: TextSettings, fixed_length: int | None) -> None:
        self._tokenizer = _read(directory, settings)
        said = (self._tokenizer.truncation or {}).get("max_length", DEFAULT_MAX_LENGTH)
        self.max_length: int = settings.max_length or fixed_length or said
        if fixed_length is not None and self.max_length > fixed_length:
            raise ConfigError(
                f"text.max_length: {self.max_length}: the model takes {fixed_length} tokens; leave it out or lower it"
            )
        self._special = {is_pair: self._tokenizer.num_special_tokens_to_add(is_pair) for is_pair in (False, True)}
        if self.max_length <= self._special[True]:
            raise ConfigError(
                f"text.max_length: {self.max_length}: the {self._special[True]} special tokens leave no room for a text"
            )
        self.padding = self._padding(settings)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(self.max_length)

    def encode(self, text: str, pair: str | None = None) -> Tokens:
        """The tokens of one text, or of two of which a model judges the relation.

        Raises InvalidRequest for a text without a token of its own, such as an empty one.
        """
        encoding = self._encode(text, pair)
        return Tokens(encoding.ids, encoding.type_ids)

    def words(self, text: str, pair: str | None = None) -> list[Word]:
        """Where the words of `encode(text, pair)` are; special tokens are none."""
        encoding = self._encode(text, pair)
        places = zip(encoding.sequence_ids, encoding.word_ids, encoding.offsets, strict=True)
        words = []
        for (sequence, word), tokens in groupby(enumerate(places), key=lambda place: place[1][:2]):
            if sequence is not None and word is not None:
                found = list(tokens)
                (first, (*_, (begin, _))), (last, (*_, (_, end))) = found[0], found[-1]
                words.append(Word((pair if sequence else text)[begin:end], first, last + 1))  # type: ignore[index]
        return words

    def _encode(self, text: str, pair: str | None) -> Encoding:
        # One at a time: the library's batches use a thread for each core, and a worker should use one.
        try:
            encoding = self._tokenizer.encode(text, pair)
        except TypeError:  # half of a surrogate pair, which some charsets let through
            raise InvalidRequest("the text has characters that Unicode does not have") from None
        if len(encoding.ids) <= self._special[pair is not None]:
            raise InvalidRequest(f"the text {shown(repr(text))} has no tokens: expected at least one word")
        return encoding

    def _padding(self, settings: TextSettings) -> Padding:
        said: dict[str, Any] = self._tokenizer.padding or {}
        if settings.pad_token is None and said:
            return Padding(said["pad_id"], said["pad_type_id"])
        names = _PAD_TOKENS if settings.pad_token is None else (settings.pad_token,)
        for name in names:
            if (found := self._tokenizer.token_to_id(name)) is not None:
                return Padding(found, 0)
        if settings.pad_token is None:
            raise ConfigError(
                "text.pad_token: the vocabulary has neither [PAD] nor <pad>; name the token that fills up short texts"
            )
        raise ConfigError(f"text.pad_token: {shown(settings.pad_token)}: the vocabulary has no such token")


def _read(directory: Path, settings: TextSettings) -> Tokenizer:
    file, vocabulary = directory / TOKENIZER_FILE, directory / VOCABULARY_FILE
    if file.is_file():
        try:
            return Tokenizer.from_file(str(file))
        except Exception as error:  # noqa: BLE001 - the library raises no narrower type
            raise ArchiveUnusable(f"{TOKENIZER_FILE}: the tokenizers library cannot read it: {error}") from None
    if vocabulary.is_file():
        return wordpiece(vocabulary, settings.lowercase)
    raise ArchiveUnusable(
        f"text_classifier needs the model's tokenizer: pack {TOKENIZER_FILE} or {VOCABULARY_FILE} with --extra-files"
    )


def wordpiece(path: Path, lowercase: bool) -> Tokenizer:
    """As BERT and ERNIE are trained with: one token a line. Its id is the line's number, or follows after a tab.

    Raises ArchiveUnusable for a file that is no such vocabulary.
    """
    try:
        # Not splitlines(), since a vocabulary has tokens that it would split.
        lines = path.read_bytes().decode().removesuffix("\n").split("\n")
        pairs = [line.removesuffix("\r").partition("\t") for line in lines]
        ids = {token: int(number) if number else i for i, (token, _, number) in enumerate(pairs)}
    except UnicodeDecodeError as error:
        raise ArchiveUnusable(f"{path.name}: not UTF-8 text: {error}") from None
    except ValueError as error:
        raise ArchiveUnusable(f"{path.name}: expected a token's number after each tab: {error}") from None
    for token in ("[UNK]", "[CLS]", "[SEP]"):
        if token not in ids:
            raise ArchiveUnusable(f"{path.name}: has no {token}: not a WordPiece vocabulary; pack a {TOKENIZER_FILE}")
    tokenizer = Tokenizer(token_models.WordPiece(ids, unk_token="[UNK]"))  # noqa: S106 - not a password
    tokenizer.add_special_tokens([token for token in ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]") if token in ids])
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    return tokenizer
