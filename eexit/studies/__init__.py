"""What is asked of a finished sweep, a folder for each question: its plan, its work and its closing table. `study.py`
says what all of them have in common; what does them is in `cluster.studies`, and the assessment, which asks
for many of them, in `cluster.assessment`.
"""
