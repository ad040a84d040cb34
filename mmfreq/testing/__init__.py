"""What the tests of this package, and of packages that use it, share.

| module | contents |
|---|---|
| `golden` | weights and inputs from names, shapes and seeds; golden files; their limits |
| `backbone_contract` | checks that every backbone passes |
| `whole_models` | small models of every backbone, neck and head, for checks over all of them |
| `toy_segmentation` | a complete segmentation config that trains in seconds |
| `stack_table` | the table of tested stacks, for `tools/test_stacks.sh` |
"""

import re


def naming(*facts: object) -> str:
    """A pattern for `pytest.raises(match=...)` that finds each of `facts`, in any order, and not inside a longer word."""
    return '(?s)' + ''.join(rf'(?=.*(?<!\w){re.escape(str(fact))}(?!\w))' for fact in facts)
