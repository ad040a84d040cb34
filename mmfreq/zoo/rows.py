"""Rows of the zoo, and the metafiles that contain them.

A metafile is in OpenMMLab's model-index format, so that `mim` reads it. Three keys of a model are specific to this project:

- `Published`: `Source` of the metrics and the recipe; `Parameters` and `FLOPs` as printed, for images of `Size`; `Note`, which
  also explains where a measured number differs.
- `Recipe`: the keys of `recipes.recipe`, as the sources give them. `own choice` lists the keys that no source gives, or is `[all]`.
- `Measured here`: results of `tools/reproduce.py`, the newest for each way of testing and origin of the weights.

Tools write `Metadata` (parameters, FLOPs; `mim` allows no lists in it) and `Measured here`; everything else is written manually.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

TASKS = ('cls', 'seg', 'det')
ALL = ['all']
OWN_CHOICE = 'own choice'
ORDER = ('Name', 'In Collection', 'Config', 'Metadata', 'Results', 'Weights', 'Published', 'Recipe', 'Measured here')


@dataclass(frozen=True)
class Row:
    """One config of the zoo.

    Attributes:
        entry: the model's entry in its metafile.
        task: 'cls', 'seg' or 'det', the folder.
        root: the folder that contains `configs/`.
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
        """Published metrics in per cent, by their names in OpenMMLab's metafiles; empty if none is known."""
        return {name: value for result in self.entry.get('Results', ()) for name, value in result['Metrics'].items()}

    @property
    def weights(self) -> str | None:
        """URL of the published file of exactly this model."""
        return self.entry.get('Weights')

    @property
    def published(self) -> Mapping:
        return self.entry.get('Published') or {}

    @property
    def recipe(self) -> dict:
        """The recorded recipe, without the list of own choices."""
        return {key: value for key, value in self.entry['Recipe'].items() if key != OWN_CHOICE}

    @property
    def own_choices(self) -> list[str]:
        """Keys of the recipe that no source gives."""
        keys = self.entry['Recipe'].get(OWN_CHOICE, [])
        return list(self.recipe) if keys == ALL else keys

    @property
    def measured(self) -> list[Mapping]:
        return self.entry.get('Measured here', [])


def default_root() -> Path:
    """The folder that contains `configs/`: the source tree, else the installed package.

    Raises:
        FileNotFoundError: neither exists.
    """
    package = Path(__file__).resolve().parents[1]
    for root in (package.parent, package / '.mim'):
        if (root / 'configs').is_dir():
            return root
    raise FileNotFoundError(
        f'Expected a folder configs/ beside {package} or in its .mim. Install mmfreq again, from a checkout or a wheel.'
    )


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
    """The canonical text of a metafile: keys in `ORDER`, so reading and writing changes nothing."""
    models = [{key: model[key] for key in ORDER if key in model} for model in contents['Models']]
    return yaml.dump({**contents, 'Models': models}, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=126)


def update_models(path: Path, change: Callable[[Mapping], Mapping]) -> None:
    """Replace each model's entry of a metafile by `change(entry)`, atomically."""
    contents = read_metafile(path)
    write_text(path, metafile_text({**contents, 'Models': [change(entry) for entry in contents['Models']]}))


def write_text(path: Path, text: str) -> None:
    """Write a file atomically: under a temporary name, then renamed."""
    partial = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        partial.write_text(text, encoding='utf-8')
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


class _Dumper(yaml.SafeDumper):
    """Lists of plain values on one line, no aliases."""

    def ignore_aliases(self, data):
        return True

    def represent_sequence(self, tag, sequence, flow_style=None):
        short = all(isinstance(item, (str, int, float)) for item in sequence)
        return super().represent_sequence(tag, sequence, flow_style=short)


_Dumper.add_representer(float, lambda dumper, value: dumper.represent_scalar('tag:yaml.org,2002:float', _decimal(value)))


def _decimal(value: float) -> str:
    """A float that YAML 1.1 reads back: it takes 1e-06, without a point, for a string."""
    text = repr(value)
    return text.replace('e', '.0e') if 'e' in text and '.' not in text else text
