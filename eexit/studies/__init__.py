"""What is asked of a finished sweep, a folder for each question: its plan, its work and its closing table. What needs
Ray to run is in `cluster.studies`.
"""
