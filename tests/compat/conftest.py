"""`import mmfreq` comes before every import of `mmcv.ops`, mmdet or mmseg in these tests, as it must in a user's program."""

import mmfreq  # noqa: F401
