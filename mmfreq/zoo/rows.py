"""Errors in one line, for tables and lists."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

LONGEST = 300  # characters


def first_sentence(error: object, file: Path) -> str:
    """The first line of a message about a file, without the file's folder; of what stands in brackets the first sentence."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    text = text.replace(str(file.absolute()), file.name).replace(str(file), file.name)
    text = re.sub(rf'\b([Tt]he checkpoint) {re.escape(file.name)}', r'\1', text).removesuffix('.')
    text = re.sub(r'\(([^()]*?\w)\. [^()]*\)', r'(\1)', text)
    return text if len(text) <= LONGEST else f'{text[: LONGEST - 3]}...'


# Rows of the zoo, and the metafiles that hold them.
#
# A metafile is in OpenMMLab's model-index format, so that `mim` reads it; three keys of a model are our own:
#
# - `Published`: `Source` of the metrics and the recipe; `Parameters` and `FLOPs` as printed, counted on images of `Size`; `Note`,
#   which also says why a measured number is another one.
# - `Recipe`: what `facts.recipe` finds in a config, here as the sources give it. `ours` lists the keys that no source gives,
#   or is `[all]`.
# - `Measured here`: results of `tools/reproduce.py`, the newest for each way of testing.
#
# `Metadata` (parameters, FLOPs; `mim` wants no lists of numbers in it) and `Measured here` are written by tools, all else by hand.


TASKS = ('cls', 'seg', 'det')
ALL = ['all']
ORDER = ('Name', 'In Collection', 'Config', 'Metadata', 'Results', 'Weights', 'Published', 'Recipe', 'Measured here')


@dataclass(frozen=True)
class Row:
    """One config of the zoo.

    Attributes:
        entry: the model's entry in its metafile.
        task: 'cls', 'seg' or 'det', the folder.
        root: the folder that holds `configs/`.
    """

    entry: Mapping
    task: str
    root: Path

    @property
    def name(self) -> str:
        """The stem of the config's file name."""
        return self.entry['Name']

    @property
    def config(self) -> Path:
        return self.root / self.entry['Config']

    @property
    def family(self) -> str:
        return Path(self.entry['Config']).parent.name

    @property
    def arch(self) -> str:
        return self.name.partition('_')[0]

    @property
    def dataset(self) -> str:
        return self.entry['Metadata']['Training Data']

    @property
    def metrics(self) -> dict[str, float]:
        """Published metrics in per cent, by the names of OpenMMLab's metafiles; empty if none is known."""
        return {name: value for result in self.entry.get('Results', ()) for name, value in result['Metrics'].items()}

    @property
    def weights(self) -> str | None:
        """Address of the published file of exactly this model."""
        return self.entry.get('Weights')

    @property
    def published(self) -> Mapping:
        return self.entry.get('Published') or {}

    @property
    def recipe(self) -> dict:
        """The recorded recipe, without `ours`."""
        return {key: value for key, value in self.entry['Recipe'].items() if key != 'ours'}

    @property
    def ours(self) -> list[str]:
        """Keys of the recipe that no source gives."""
        ours = self.entry['Recipe'].get('ours', [])
        return list(self.recipe) if ours == ALL else ours

    @property
    def measured(self) -> list[Mapping]:
        return self.entry.get('Measured here', [])


def default_root() -> Path:
    """The folder that holds `configs/`: of a source tree, else of an installed package.

    Raises:
        FileNotFoundError: neither is there.
    """
    package = Path(__file__).resolve().parents[1]
    for root in (package.parent, package / '.mim'):
        if (root / 'configs').is_dir():
            return root
    raise FileNotFoundError(f'no folder configs/ beside {package} or in its .mim: install mmfreq from a checkout or a wheel')


def metafiles(root: Path | None = None) -> list[Path]:
    """All metafiles, by task and family."""
    root = root or default_root()
    return [path for task in TASKS for path in sorted((root / 'configs' / task).glob('*/metafile.yml'))]


def load_rows(root: Path | None = None) -> list[Row]:
    """All rows, by task, family and the order of the metafile."""
    root = root or default_root()
    return [Row(entry, path.parts[-3], root) for path in metafiles(root) for entry in read_metafile(path)['Models']]


def read_metafile(path: Path) -> dict:
    """Contents of a metafile."""
    return yaml.safe_load(path.read_text(encoding='utf-8'))


def metafile_text(contents: Mapping) -> str:
    """A metafile as it is written: keys in `ORDER`, so that writing what was read changes nothing."""
    models = [{key: model[key] for key in ORDER if key in model} for model in contents['Models']]
    return yaml.dump({**contents, 'Models': models}, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=126)


def update_models(path: Path, change) -> None:
    """Replace each model's entry of a metafile by `change(entry)`, whole or not at all."""
    contents = read_metafile(path)
    write_text(path, metafile_text({**contents, 'Models': [change(entry) for entry in contents['Models']]}))


def write_text(path: Path, text: str) -> None:
    """Write a file under another name and rename it, so that a reader or an interruption never meets half of it."""
    part = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        part.write_text(text, encoding='utf-8')
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


class _Dumper(yaml.SafeDumper):
    """Short lists on a line, lists of models indented; nothing is written as an alias."""

    def ignore_aliases(self, data):
        return True

    def represent_sequence(self, tag, sequence, flow_style=None):
        short = all(isinstance(item, (str, int, float)) for item in sequence)
        return super().represent_sequence(tag, sequence, flow_style=short)


_Dumper.add_representer(float, lambda dumper, value: dumper.represent_scalar('tag:yaml.org,2002:float', _decimal(value)))


def _decimal(value: float) -> str:
    """As YAML 1.1 reads it back: 1e-06 has no point, and would be a string."""
    text = repr(value)
    return text.replace('e', '.0e') if 'e' in text and '.' not in text else text
