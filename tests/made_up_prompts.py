"""Files of the same form as Asterisk's prompts, of noise."""

from __future__ import annotations

import gzip
import pathlib
import wave

import numpy as np

from examples import prompts

COUNT = 120


def write(data_dir: pathlib.Path) -> None:
    """Puts them where Debian's packages, unpacked, would have them."""
    random = np.random.default_rng(0)
    for language, voice in prompts.VOICES.items():
        lines = [f"; Sounds in {language}", "", "beep: [a tone]"]
        folder = data_dir / prompts.SOUNDS / voice
        folder.mkdir(parents=True)
        for at in range(COUNT):
            word = "".join(random.choice(list("abcd"), 3))
            lines.append(f"word{at}: {word.capitalize()} {word[::-1]}.")
            write_noise(folder / f"word{at}.wav", random)
        path = data_dir / prompts.TEXTS.format(language)
        path.parent.mkdir(parents=True)
        path.write_bytes(gzip.compress("\n".join(lines).encode()))


def write_noise(path: pathlib.Path, random: np.random.Generator) -> None:
    noise = random.integers(-1000, 1000, 6000, "<i2")
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, prompts.RATE, 0, "NONE", "not compressed"))
        file.writeframes(noise.tobytes())
