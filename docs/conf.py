"""The documentation site: `sphinx-build -W --keep-going -n docs OUT` writes it to the folder OUT. No network is needed.

Pages are Markdown (MyST); the API reference comes from the docstrings; the scripts in `tutorials/` are executed.
"""

import os
import sys
import warnings
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE / '_ext')]
os.environ['PYTHONPATH'] = os.pathsep.join(
    filter(None, (str(ROOT), os.environ.get('PYTHONPATH')))
)  # for processes of the tutorials

import mmfreq  # noqa: E402  (first: it supplies mmcv._ext)

project = 'mmfreq'
copyright = 'The mmfreq authors'
version = release = mmfreq.__version__

extensions = [
    'myst_parser',
    'sphinx.ext.autodoc',
    'sphinx.ext.napoleon',
    'sphinx.ext.viewcode',
    'sphinx_copybutton',
    'sphinx_gallery.gen_gallery',
    'repository_files',
    'docstrings',
]
exclude_patterns = [
    '_ext',
    'tutorials',
    '**/sg_execution_times.rst',
    'sg_execution_times.rst',
    'generated/**/*.ipynb',
    '**/README*',
]

# Markdown
myst_enable_extensions = ['colon_fence', 'deflist']
myst_heading_anchors = 4
suppress_warnings = ['config.cache']

# API reference. A single backtick in a docstring is code; where it is the name of something documented, it links to it.
default_role = 'py:obj'
autodoc_class_signature = 'mixed'
autodoc_member_order = 'bysource'
autodoc_typehints = 'signature'
autodoc_typehints_format = 'short'
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 100
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ['Shape']
napoleon_use_rtype = False

# `-n` reports every reference without a target. What may have none:
nitpick_ignore_regex = [
    ('py:obj', r'(?s).*'),  # code in single backticks, see `default_role`
    ('py:exc', r'\w+'),  # `Raises` sections name exceptions without their module
    ('py:class', r'tuple\[str'),  # of `tuple[str, ...]`: Sphinx splits the types of attributes at commas
    ('py:.*', r'(collections|dataclasses|os|pathlib|types|typing)\..*'),  # the standard library; no inventory without a network
    ('py:.*', r'(torch|torchvision|numpy|timm|mmcv|mmengine|mmseg|mmdet|mmpretrain)\..*'),
    (
        'py:class',
        r'(FrequencyBackbone|FrequencyClassifier|Tensor|Module|nn\.Module|PathLike|Path|Callable|Iterable|Mapping|SpectralMap)',
    ),
]

# Tutorials
sphinx_gallery_conf = {
    'examples_dirs': 'tutorials',
    'gallery_dirs': 'generated/tutorials',
    'filename_pattern': r'\.py$',
    'ignore_pattern': r'__init__\.py',
    'within_subsection_order': 'FileNameSortKey',
    'download_all_examples': False,
    'show_memory': False,
    'min_reported_time': 600,
    'remove_config_comments': True,
    'default_thumb_file': str(HERE / 'images' / 'filters.png'),
    'image_scrapers': ('matplotlib',),
    'reset_modules': ('matplotlib',),
    'capture_repr': (),
    'write_computation_times': False,
}
warnings.filterwarnings('ignore', category=DeprecationWarning)
warnings.filterwarnings('ignore', message='pkg_resources is deprecated')

# HTML
html_theme = 'furo'
html_title = 'mmfreq'
html_static_path = ['_static']
html_css_files = ['site.css']
html_favicon = '_static/icon.svg'
html_logo = '_static/icon.svg'
html_copy_source = False
html_theme_options = {
    'light_css_variables': {'color-brand-primary': '#0b5394', 'color-brand-content': '#0b5394'},
    'dark_css_variables': {'color-brand-primary': '#7db8f0', 'color-brand-content': '#7db8f0'},
}
pygments_style = 'friendly'
pygments_dark_style = 'monokai'
copybutton_exclude = '.linenos, .gp, .go'
