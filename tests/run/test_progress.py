"""Where a bar is shown if nobody says."""

import pytest

from probmf.run import driver


class Notebook:
    """A console as Jupyter's."""

    is_jupyter, is_terminal, is_interactive, is_dumb_terminal = True, False, True, False

    def __init__(self, stderr: bool) -> None:
        self.stderr = stderr


@pytest.mark.parametrize("widgets", [False, True])
def test_a_notebook_has_a_bar_if_it_can_draw_one(
    widgets: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "Console", Notebook)
    monkeypatch.setattr(driver, "find_spec", lambda name: object() if widgets else None)
    monkeypatch.setattr(driver, "Progress", lambda *columns, disable, **options: disable)
    assert driver.progress_bar(None) is not widgets
    assert driver.progress_bar(False) is True
    assert driver.progress_bar(True) is False
