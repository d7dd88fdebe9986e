"""Rows in flight: what is asked for and comes back, the slots that rows take, their caches, and how their numbers get
to the device and back.
"""
