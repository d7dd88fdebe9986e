"""The ways to give every row in flight its next token: beside a full-depth pass, by online rules, with drafts, and
for a student with weights of its own.
"""
