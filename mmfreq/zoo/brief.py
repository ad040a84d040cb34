"""Errors in one line, for tables and lists."""

import re
from pathlib import Path

LONGEST = 300  # characters


def brief(error: object, file: Path) -> str:
    """The first line of a message about a file, without the file's folder; of what stands in brackets the first sentence."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    text = text.replace(str(file.absolute()), file.name).replace(str(file), file.name)
    text = text.replace(f'the checkpoint {file.name}', 'the checkpoint').removesuffix('.')
    text = re.sub(r'\(([^()]*?\w)\. [^()]*\)', r'(\1)', text)
    return text if len(text) <= LONGEST else f'{text[: LONGEST - 3]}...'
