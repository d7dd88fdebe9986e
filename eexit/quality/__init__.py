"""Is the text still good, and how sure is that: measures of texts, right answers, a judge's rubric, intervals over
prompts, and settings that are chosen with a guarantee. What is asked of a finished sweep is in `eexit.studies`.
"""
