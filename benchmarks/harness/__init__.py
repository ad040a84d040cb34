"""Benchmarks of models against a baseline; importing this package imports nothing.

| module | contents |
|---|---|
| `suites` | settings, and the suites: which groups of entries they compare |
| `entries` | an entry: model, form, size, mode, precision; one call of it |
| `measure` | measuring groups: errors, memory, time; the results |
| `references` | the check that outputs and gradients equal those of the reference |
| `timing` | paired rounds, worker processes, the rate of matrix products |
| `memory` | peak, saved and retained memory of a call |
| `tables`, `targets`, `page`, `plot` | what is printed and written |
| `tune` | times of the spectral backends |

    groups = suites.plan(suites.with_defaults(settings), sources)
    results = measure.measure(groups, settings)
    tables.tables(results), targets.verdicts(results), page.page(results, ...), plot.plot(results, path)

Models come from functions (`entries.ModelSources`), so this package depends neither on timm nor on the reference implementations.
"""
