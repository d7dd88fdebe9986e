"""What an assessment found: the figures of its sweeps and studies, the ledger of what each restriction takes, and the
verdict in sentences. Nothing here runs a model.
"""
