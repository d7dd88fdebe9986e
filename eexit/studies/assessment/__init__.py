"""Does early exit pay for one model on one machine: what is asked, how much of it fits into the minutes, which settings
are worth a run, what the tables say then, and the verdict. Nothing here runs a model: `cluster.studies.assessment` does
the steps, each an ordinary sweep or study in a folder of its own.
"""
