"""The report as one HTML file: the data for the page's scripts, packed, and the page itself."""
