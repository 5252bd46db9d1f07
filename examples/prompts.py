"""Telephone prompts, spoken and written, that several examples share.

Asterisk's core sounds: words and sentences at 8 kHz, read by one voice in each
of five languages, with transcripts and the same names in all.  Left out is what
is not read as it is written: tones, silence, remarks in brackets, digits, and
question marks, which in the Italian file stand for lost letters.  Of prompts of
a language with the same text the first is kept, so that no text to validate was
trained on.

They come from Debian's packages asterisk-core-sounds-{en,es,fr,it,ru}, where
the transcripts are, and the same with -wav, where the sounds are.
"""

from __future__ import annotations

import functools
import gzip
import itertools
import pathlib
import re
import unicodedata
import wave
import zlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from examples.harness import files

VOICES = {
    "en": "en_US_f_Allison",
    "es": "es_MX_f_Allison",
    "fr": "fr_CA_f_June",
    "it": "it_IT_m_Carlo",
    "ru": "ru_RU_f_IvrvoiceRU",
}
TEXTS = "usr/share/doc/asterisk-core-sounds-{0}/core-sounds-{0}.txt.gz"
SOUNDS = "usr/share/asterisk/sounds"
NOT_AS_WRITTEN = re.compile(r"[\[\](){}<>?@#$\d]")
CYRILLIC = "абвгдежзиклмнопрстуфхцчшщъыьэюя"
CHARACTERS = f" 'abcdefghijklmnopqrstuvwxyz{CYRILLIC}"
RATE, WINDOW, HOP, FFT, BANDS = 8000, 200, 80, 256, 40
PARTS = 8  # of these one is to validate


class Prompt(NamedTuple):
    """What is said, how that is written, in lower case, and where it sounds."""

    language: str
    name: str
    text: str
    sound: pathlib.Path

    @property
    def to_validate(self) -> bool:
        """Decided by the name alone, and so alike in all languages."""
        return zlib.crc32(self.name.encode()) % PARTS == 0


def read(data_dir: pathlib.Path, languages: Iterable[str]) -> list[Prompt]:
    """Returns the prompts of some languages, sorted by name.

    Raises:
        MissingDataError: if a package is not there.
    """
    found = []
    for language in languages:
        package = f"asterisk-core-sounds-{language}"
        packages = (package, f"{package}-wav")
        texts = TEXTS.format(language)
        path = files.of_packages(data_dir, packages, texts)
        folder = f"{SOUNDS}/{VOICES[language]}"
        sounds = files.of_packages(data_dir, packages, folder)
        first = {}
        for name, text in transcripts(gzip.decompress(path.read_bytes())):
            sound = sounds / f"{name}.wav"
            if sound.is_file():
                first.setdefault(text, Prompt(language, name, text, sound))
        found += first.values()
    return sorted(found, key=lambda prompt: prompt[1::-1])


def transcripts(file: bytes) -> list[tuple[str, str]]:
    """Returns names and texts of a file with a line `name: text` for each."""
    lines = [x.partition(":") for x in file.decode("utf-8-sig").splitlines()]
    return sorted(
        (name.strip(), folded(text))
        for name, _, text in lines
        if folded(text)
        and not name.startswith(";")
        and not NOT_AS_WRITTEN.search(text)
    )


def folded(text: str) -> str:
    """Lower case without accents; letters, apostrophes and single spaces."""
    apart = unicodedata.normalize("NFKD", text.lower().replace("\u2019", "'"))
    letters = "".join(x for x in apart if not unicodedata.combining(x))
    return " ".join(re.sub(r"[^\w']|_", " ", letters).split())


def heard(
    prompts: Iterable[Prompt], frames: int
) -> list[tuple[Prompt, np.ndarray]]:
    """Returns those of at most so many frames, with their spectra."""
    pairs = [(prompt, log_mel(samples(prompt))) for prompt in prompts]
    return [(prompt, x) for prompt, x in pairs if len(x) <= frames]


def pairs(
    prompts: list[Prompt],
    sources: tuple[str, ...],
    targets: tuple[str, ...],
    longest: int,
) -> list[tuple[Prompt, Prompt]]:
    """Pairs prompts of the same name, of at most so many characters."""
    short = [prompt for prompt in prompts if len(prompt.text) <= longest]
    groups = itertools.groupby(short, key=lambda prompt: prompt.name)
    return [
        (a, b)
        for _, group in groups
        for a, b in itertools.permutations(group, 2)
        if a.language in sources and b.language in targets
    ]


def samples(prompt: Prompt) -> np.ndarray:
    """Returns the sound, float32 from -1 to 1, 8,000 samples a second."""
    with wave.open(str(prompt.sound)) as file:
        content = file.readframes(file.getnframes())
    return np.frombuffer(content, "<i2").astype("float32") / 2**15


@functools.cache
def mel() -> np.ndarray:
    """Returns the bands of a spectrum, [frequencies, bands]."""
    return tf.signal.linear_to_mel_weight_matrix(
        BANDS, FFT // 2 + 1, RATE, 60.0, 3800.0
    ).numpy()


def log_mel(samples: np.ndarray) -> np.ndarray:
    """Returns 100 frames a second, [frames, bands], each band standardized."""
    padded = np.pad(samples, (0, max(0, WINDOW - len(samples))))
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    window = np.hanning(WINDOW).astype("float32")
    power = np.square(np.abs(np.fft.rfft(windows * window, FFT)))
    x = np.log(power @ mel() + 1e-5)
    return (x - x.mean(0)) / (x.std(0) + 0.1)


def filled(rows: list[np.ndarray], length: int) -> np.ndarray:
    """Puts rows of different lengths into one array, with zeros behind."""
    made = np.zeros([len(rows), length, *rows[0].shape[1:]], rows[0].dtype)
    for place, row in zip(made, rows, strict=True):
        place[: len(row)] = row
    return made
