"""Code that several sections share: statistics of each configuration, charts, figures, styles and numbers as text."""
