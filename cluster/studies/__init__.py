"""What does the studies of `eexit.studies`: in this process, or on Ray in an actor that has its node or GPU for itself,
or in a pool. Training is here too, which keeps more than rows.
"""
