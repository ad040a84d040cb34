"""How far a float32 run may lie from the published numbers: the one place of these limits, and how they were found.

Another instruction set or another number of threads adds up the same terms in another order, so the distance differs from
machine to machine. `python benchmarks/golden_errors.py` runs all tests that use the fixture `within_limit` with AVX-512, with AVX2
and without either, with one and with two threads, and once in float64, where what remains is the rounding of the golden files
themselves. Its table is `docs/measurements/golden_errors.md`. Each limit is at least 1.5 times the largest distance in that table,
and for outputs at most 4e-6 (HorNet) or 2e-5 (the other families); tests/testing/test_golden_limits.py compares.
"""

# what is compared -> largest distance: relative, the norm of the difference over the norm; of losses as the key says
LIMITS = {
    'hornet outputs': 4e-6,
    'hornet gradients': 1e-5,
    'hornet loss': 1e-5,
    'gfnet outputs': 1e-5,
    'gfnet gradients': 1e-5,
    'gfnet loss': 3e-5,  # a mean of terms of both signs that nearly cancel
    'dfformer layers': 4e-6,
    'dfformer outputs': 1e-5,
    'dfformer gradients': 7e-5,  # the files' own rounding is up to 1.6e-5
    'dfformer loss (absolute)': 2e-7,  # a small sum of terms of both signs
    'affnet outputs': 2e-5,
    'affnet gradients': 1e-5,
    'affnet loss': 1e-5,
    'reference implementation, outputs': 1e-5,
    'reference implementation, gradients': 1.5e-4,  # a StarReLU's scale is one number with a gradient of terms of both signs
    'affnet decoders': 4e-6,
}
