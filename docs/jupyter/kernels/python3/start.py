"""What the kernels of the docs begin with: in a cell warnings are errors, as in the tests."""


def begin() -> None:
    """Turn warnings into errors, but for that of few draws in a cell that names it."""
    import warnings

    from IPython import get_ipython

    caught = warnings.catch_warnings()

    def before(info) -> None:
        nonlocal caught
        caught = warnings.catch_warnings()
        caught.__enter__()
        warnings.simplefilter("error")
        # Draws are few in some cells, to be quick; those name the warning.
        if "DiagnosticWarning" in info.raw_cell:
            warnings.filterwarnings("ignore", "The draws should not be relied upon")

    def after(_) -> None:
        caught.__exit__(None, None, None)

    events = get_ipython().events
    events.register("pre_run_cell", before)
    events.register("post_run_cell", after)


begin()
del begin
