"""Measuring models against each other. Nothing is imported here.

    plan = suites.plan(settings.settled(...), makers)   what is compared with what: groups of entries
    results = run.measure(plan, settings)               paired rounds, memory, errors, the floor
    tables.tables(results), targets.verdicts(results), page.page(...), plot.plot(results)

A model is handed in as a function that makes it, so that nothing here knows timm or the published code.
"""
