"""What is told of a sweep's results without a report: its closing table, where its tokens become certain, and its first
texts, coloured by exit layer.
"""
