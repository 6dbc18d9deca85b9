"""The page of commands says what the program is."""

from tools.cli_docs import PAGE, page


def test_the_page_of_commands_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python tools/cli_docs.py"
