"""A directory of tables, figures and one page."""
