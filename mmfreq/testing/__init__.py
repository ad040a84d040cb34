"""What tests of this package and of its users share: weights from names and shapes, and comparison with golden files."""

import re

# What an error message must name, whatever its wording.


def naming(*facts: object) -> str:
    """A pattern for `pytest.raises(match=...)` that finds each of `facts`, in any order, and not inside a longer word."""
    return '(?s)' + ''.join(rf'(?=.*(?<!\w){re.escape(str(fact))}(?!\w))' for fact in facts)
