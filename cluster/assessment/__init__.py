"""Does early exit pay for one model on one machine: what is asked, how much of it fits into the minutes, and the steps,
each an ordinary sweep or study in a folder of its own. What their tables say, and the verdict, is in `outcome`.
"""
