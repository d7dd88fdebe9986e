"""The ways to give every row in flight its next token: beside a full-depth pass, by online rules, and with drafts."""
